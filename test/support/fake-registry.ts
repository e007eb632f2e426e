import { createHash } from "node:crypto";
import { PrefixdError } from "../../src/errors.ts";
import type { KvTensor } from "../../src/kv.ts";
import { PROMPT_FILE, promptFile } from "../../src/prefixes/hard-prompt.ts";
import type {
  OpenedFile,
  PrefixRegistry,
  PrefixUpload,
  RegisterOptions,
  ResolvedPrefix,
} from "../../src/prefixes/registry-types.ts";
import { keyText } from "../../src/prefixes/name.ts";
import {
  checkQuota,
  listedFor,
  mayRead,
  mayUse,
  notReadable,
  patchSharing,
  sharingOf,
} from "../../src/prefixes/sharing.ts";
import { versionNotFound } from "../../src/prefixes/versions.ts";
import type {
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PrefixVersion,
  Precondition,
  RemovedPrefixes,
  SharingPatch,
} from "../../src/prefixes/store.ts";

interface Entry {
  readonly meta: PrefixMeta;
  readonly files: Map<string, Uint8Array>;
}

/** Prefixes in a Map; the tensors are empty, `length` of a PEFT prefix is 10 and of a hard prompt its tokens. */
export class FakeRegistry implements PrefixRegistry {
  readonly entries = new Map<string, Entry>();
  /** All versions that were replaced. */
  readonly earlier = new Map<string, Entry[]>();
  /** Makes every call fail, like a store that is away. */
  down: PrefixdError | null = null;
  /** Called while a prefix is being looked up. */
  whileResolving: (() => Promise<void>) | undefined;

  async register(
    key: PrefixKey,
    upload: PrefixUpload,
    { precondition, quota, by = null }: RegisterOptions = {},
  ): Promise<{ meta: PrefixMeta; created: boolean }> {
    this.#check();
    const old = this.entries.get(keyText(key));
    this.#precondition(old, precondition);
    const files = new Map<string, Uint8Array>();
    if (upload.kind === "peft") {
      if (Buffer.from(upload.config).toString()[0] !== "{")
        throw new PrefixdError("adapter_config_invalid", "adapter_config.json is not JSON.");
      files.set("adapter_config.json", upload.config).set("adapter_model.safetensors", upload.weights);
    } else files.set(PROMPT_FILE, promptFile(upload.ids, upload.text));
    const { base_model_name_or_path: baseName = null, revision: baseRevision = null } =
      upload.kind === "peft"
        ? (JSON.parse(Buffer.from(upload.config).toString()) as { base_model_name_or_path?: string; revision?: string })
        : {};
    const digest = createHash("sha256")
      .update(upload.kind === "peft" ? upload.weights : Buffer.from(upload.ids.buffer))
      .digest("hex");
    const length = upload.kind === "peft" ? 10 : upload.ids.length;
    const now = new Date().toISOString();
    const meta: PrefixMeta = {
      ...key,
      kind: upload.kind === "peft" ? "PREFIX_TUNING" : "HARD_PROMPT",
      digest,
      length,
      bytes: length * 64,
      base: "base",
      baseName,
      baseRevision,
      createdAt: old?.meta.createdAt ?? now,
      updatedAt: now,
      updatedBy: by,
      files: Object.fromEntries([...files].map(([name, bytes]) => [name, bytes.length])),
      ...sharingOf(old?.meta ?? null),
    };
    const others = this.#of(key.user).filter(({ name }) => name !== key.name);
    checkQuota(
      quota,
      { prefixes: others.length, bytes: others.reduce((sum, { bytes }) => sum + bytes, 0) },
      meta.bytes,
      old?.meta.bytes ?? null,
    );
    this.entries.set(keyText(key), { meta, files });
    if (old !== undefined && old.meta.digest !== digest)
      this.earlier.set(keyText(key), [old, ...(this.earlier.get(keyText(key)) ?? [])]);
    return { meta, created: old === undefined };
  }

  async info(key: PrefixKey, asker = key.user): Promise<PrefixMeta> {
    return this.#get(key, asker).meta;
  }

  async find(key: PrefixKey, asker = key.user): Promise<PrefixMeta | null> {
    return this.info(key, asker).catch((error: PrefixdError) => {
      if (error.code === "prefix_not_found") return null;
      throw error;
    });
  }

  async readable(key: PrefixKey, asker = key.user): Promise<PrefixMeta> {
    const { meta } = this.#get(key, asker);
    if (!mayRead(meta, asker)) throw notReadable(meta);
    return meta;
  }

  async versions(key: PrefixKey, asker = key.user): Promise<PrefixVersion[]> {
    const { visibility, shared_with, readable_by, ...current } = await this.readable(key, asker);
    void [visibility, shared_with, readable_by];
    return [current, ...(this.earlier.get(keyText(key)) ?? []).map(({ meta }) => meta)];
  }

  async restore(key: PrefixKey, digest: string, by: string | null, precondition?: Precondition): Promise<PrefixMeta> {
    const now = this.#get(key);
    this.#precondition(now, precondition);
    if (now.meta.digest === digest) return now.meta;
    const earlier = this.earlier.get(keyText(key)) ?? [];
    const found = earlier.find(({ meta }) => meta.digest === digest);
    if (found === undefined) throw versionNotFound();
    const meta = { ...found.meta, updatedBy: by, updatedAt: new Date().toISOString(), ...sharingOf(now.meta) };
    this.entries.set(keyText(key), { ...found, meta });
    this.earlier.set(keyText(key), [now, ...earlier.filter((entry) => entry !== found)]);
    return meta;
  }

  async list(user: string, { after, limit }: { after?: string; limit: number }): Promise<ListedPrefix[]> {
    this.#check();
    const metas = this.#of(user).sort((a, b) => (a.name < b.name ? -1 : 1));
    return metas
      .filter(({ name }) => after === undefined || name > after)
      .slice(0, limit)
      .map((meta) => listedFor(user, meta));
  }

  async listShared(user: string, { after, limit }: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]> {
    this.#check();
    const metas = [...this.entries.values()]
      .map(({ meta }) => meta)
      .filter((meta) => meta.user !== user && mayUse(meta, user));
    const sorted = metas.sort((a, b) => (keyText(a) < keyText(b) ? -1 : 1));
    return sorted
      .filter((meta) => after === undefined || keyText(meta) > keyText(after))
      .slice(0, limit)
      .map((meta) => listedFor(user, meta));
  }

  isResident(): boolean {
    return false;
  }

  async held(user: string): Promise<HeldPrefixes> {
    const metas = this.#of(user);
    return { prefixes: metas.length, bytes: metas.reduce((sum, { bytes }) => sum + bytes, 0) };
  }

  async openFile(key: PrefixKey, file: string, asker = key.user): Promise<OpenedFile> {
    await this.readable(key, asker);
    const { meta, files } = this.#get(key, asker);
    const content = files.get(file);
    if (content === undefined) throw new PrefixdError("not_found", "The prefix has no such file.");
    const chunks = async function* (): AsyncGenerator<Uint8Array> {
      yield content;
    };
    return { meta, bytes: content.length, chunks: chunks() };
  }

  async remove(key: PrefixKey, precondition?: Precondition): Promise<void> {
    this.#precondition(this.#get(key), precondition);
    this.entries.delete(keyText(key));
    this.earlier.delete(keyText(key));
  }

  async patch(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta> {
    const entry = this.#get(key);
    this.#precondition(entry, precondition);
    const meta = patchSharing(entry.meta, patch);
    this.entries.set(keyText(key), { ...entry, meta });
    return meta;
  }

  async removeUser(user: string): Promise<RemovedPrefixes> {
    this.#check();
    const metas = this.#of(user);
    for (const meta of metas) this.entries.delete(keyText(meta));
    return { prefixes: metas.length, bytes: metas.reduce((sum, { bytes }) => sum + bytes, 0) };
  }

  async resolve(key: PrefixKey, asker = key.user): Promise<ResolvedPrefix> {
    const { meta } = this.#get(key, asker);
    await this.whileResolving?.();
    const kv: KvTensor = { length: meta.length, data: new Float32Array(0) };
    return { key, digest: meta.digest, kv };
  }

  #of(user: string): PrefixMeta[] {
    return [...this.entries.values()].map(({ meta }) => meta).filter((meta) => meta.user === user);
  }

  #get(key: PrefixKey, asker = key.user): Entry {
    this.#check();
    const entry = this.entries.get(keyText(key));
    if (!entry || !mayUse(entry.meta, asker)) throw new PrefixdError("prefix_not_found", "There is no such prefix.");
    return entry;
  }

  #check(): void {
    if (this.down) throw this.down;
  }

  #precondition(entry: Entry | undefined, precondition: Precondition | undefined): void {
    const { ifMatch, ifNoneMatch } = precondition ?? {};
    const matches =
      ifMatch === undefined || (entry !== undefined && (ifMatch === "*" || ifMatch.includes(entry.meta.digest)));
    if (!matches || (ifNoneMatch === "*" && entry))
      throw new PrefixdError("precondition_failed", "The prefix has another digest by now.");
  }
}
