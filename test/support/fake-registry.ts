import { createHash } from "node:crypto";
import { PrefixdError } from "../../src/errors.ts";
import type { KvTensor } from "../../src/kv.ts";
import type { PrefixRegistry, PrefixUpload, ResolvedPrefix } from "../../src/prefixes/registry-types.ts";
import type { PrefixKey, PrefixMeta, Precondition } from "../../src/prefixes/store.ts";

interface Entry {
  readonly meta: PrefixMeta;
  readonly files: Map<string, Uint8Array>;
}

/** Prefixes in a Map; the tensors are empty, `length` of a PEFT prefix is 10 and of a hard prompt its tokens. */
export class FakeRegistry implements Omit<PrefixRegistry, "removeUser"> {
  readonly entries = new Map<string, Entry>();
  /** Makes every call fail, as a store that is away. */
  down: PrefixdError | null = null;
  /** Called while a prefix is being looked up. */
  whileResolving: (() => Promise<void>) | undefined;

  async register(key: PrefixKey, upload: PrefixUpload, precondition?: Precondition): Promise<{ meta: PrefixMeta; created: boolean }> {
    this.#check();
    const old = this.entries.get(key.name);
    this.#precondition(old, precondition);
    const files = new Map<string, Uint8Array>();
    if (upload.kind === "peft") {
      if (Buffer.from(upload.config).toString()[0] !== "{") throw new PrefixdError("adapter_config_invalid", "adapter_config.json is not JSON.");
      files.set("adapter_config.json", upload.config).set("adapter_model.safetensors", upload.weights);
    }
    const digest = createHash("sha256").update(upload.kind === "peft" ? upload.weights : Buffer.from(upload.ids.buffer)).digest("hex");
    const length = upload.kind === "peft" ? 10 : upload.ids.length;
    const now = new Date().toISOString();
    const meta: PrefixMeta = {
      ...key, kind: upload.kind === "peft" ? "PREFIX_TUNING" : "HARD_PROMPT", digest, length, bytes: length * 64, base: "base",
      createdAt: old?.meta.createdAt ?? now, updatedAt: now, files: Object.fromEntries([...files].map(([name, bytes]) => [name, bytes.length])),
    };
    this.entries.set(key.name, { meta, files });
    return { meta, created: old === undefined };
  }

  async info(key: PrefixKey): Promise<PrefixMeta> {
    return this.#get(key).meta;
  }

  async list(_user: string, { after, limit }: { after?: string; limit: number }): Promise<PrefixMeta[]> {
    this.#check();
    const names = [...this.entries.keys()].sort().filter((name) => after === undefined || name > after);
    return names.slice(0, limit).map((name) => this.#get({ user: "local", name }).meta);
  }

  async files(key: PrefixKey): Promise<{ meta: PrefixMeta; files: Map<string, Uint8Array> }> {
    return this.#get(key);
  }

  async remove(key: PrefixKey, precondition?: Precondition): Promise<void> {
    this.#precondition(this.#get(key), precondition);
    this.entries.delete(key.name);
  }

  async resolve(key: PrefixKey): Promise<ResolvedPrefix> {
    const { meta } = this.#get(key);
    await this.whileResolving?.();
    const kv: KvTensor = { length: meta.length, data: new Float32Array(0) };
    return { key, digest: meta.digest, kv };
  }

  #get(key: PrefixKey): Entry {
    this.#check();
    const entry = this.entries.get(key.name);
    if (!entry) throw new PrefixdError("prefix_not_found", "There is no such prefix.");
    return entry;
  }

  #check(): void {
    if (this.down) throw this.down;
  }

  #precondition(entry: Entry | undefined, precondition: Precondition | undefined): void {
    const { ifMatch, ifNoneMatch } = precondition ?? {};
    const matches = ifMatch === undefined || (entry !== undefined && (ifMatch === "*" || ifMatch.includes(entry.meta.digest)));
    if (!matches || (ifNoneMatch === "*" && entry)) throw new PrefixdError("precondition_failed", "The prefix has another digest by now.");
  }
}
