import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { PrefixdError } from "../errors.ts";
import { foldLength, kvElements } from "../kv.ts";
import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";
import { baseNameDiffers } from "./base-name.ts";
import type { PrefixCache } from "./cache.ts";
import { firstNotFinite, kvBytes, prefixDigest } from "./digest.ts";
import { PROMPT_FILE, promptFile } from "./hard-prompt.ts";
import { checkPrefixName, isPrefixName, prefixNotFound } from "./name.ts";
import { CONFIG_FILE, checkLength, maxAdapterBytes, peftAdapterInSteps, WEIGHTS_FILE } from "./peft.ts";
import { checkPrecondition } from "./precondition.ts";
import type { OpenedFile, PrefixRegistry, PrefixUpload, RegisterOptions, ResolvedPrefix } from "./registry-types.ts";
import { mayRead, mayUse, notReadable, sharingOf, withoutSharing } from "./sharing.ts";
import { versionNotFound } from "./versions.ts";
import type {
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PrefixRecord,
  PrefixStore,
  PrefixVersion,
  Precondition,
  SharingPatch,
} from "./store.ts";

/** Bytes of a file read at a time: one chunk in Redis. */
const CHUNK_BYTES = 512 * 1024;
/** Milliseconds after which a user hears that a foreign prefix is not there for them: longer than stores mostly take. */
export const REFUSAL_MS = 5;

export interface PrefixRegistryOptions {
  readonly store: PrefixStore;
  /** A cache over the same store. */
  readonly cache: PrefixCache;
  readonly shape: ModelShape;
  readonly baseFingerprint: string;
  /**
   * The base model's name: adapters that name another one are refused (`prefix_base_name_mismatch`). Absent: names do
   * not matter.
   */
  readonly requiredBaseName?: string;
  /** Runs a soft or hard prompt through the base model, until `signal` aborts. */
  readonly fold: (input: FoldInput, key: PrefixKey, signal?: AbortSignal) => Promise<KvTensor>;
  /** Throws `prefix_overflows` if the base model's numbers are not finite with these keys and values. */
  readonly tryPrefix: (kv: KvTensor, key: PrefixKey, signal?: AbortSignal) => Promise<void>;
  /** Earlier versions of a prefix to keep. Default 0. */
  readonly keepVersions?: number;
  /** Maximum total size of an upload's files. Default: the longest prefix's. */
  readonly maxUploadBytes?: number;
  /** Wall clock for timestamps. */
  readonly clock?: () => Date;
}

/** The base model, bound to one registration. */
interface Model {
  readonly fold: (input: FoldInput) => Promise<KvTensor>;
  readonly tryPrefix: (kv: KvTensor) => Promise<void>;
}

/** A compiled upload, before it has a name. */
interface Compiled extends Pick<PrefixMeta, "kind" | "baseName" | "baseRevision"> {
  readonly kv: KvTensor;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

export function createPrefixRegistry(options: PrefixRegistryOptions): PrefixRegistry {
  return new Registry(options);
}

class Registry implements PrefixRegistry {
  readonly #store: PrefixStore;
  readonly #cache: PrefixCache;
  readonly #shape: ModelShape;
  readonly #base: string;
  readonly #requiredBaseName: string | undefined;
  readonly #fold: PrefixRegistryOptions["fold"];
  readonly #tryPrefix: PrefixRegistryOptions["tryPrefix"];
  readonly #keepVersions: number;
  readonly #maxUploadBytes: number;
  readonly #clock: () => Date;

  constructor(options: PrefixRegistryOptions) {
    this.#store = options.store;
    this.#cache = options.cache;
    this.#shape = options.shape;
    this.#base = options.baseFingerprint;
    this.#requiredBaseName = options.requiredBaseName;
    this.#fold = options.fold;
    this.#tryPrefix = options.tryPrefix;
    this.#keepVersions = options.keepVersions ?? 0;
    this.#maxUploadBytes = options.maxUploadBytes ?? maxAdapterBytes(options.shape);
    this.#clock = options.clock ?? (() => new Date());
  }

  async register(
    key: PrefixKey,
    upload: PrefixUpload,
    { precondition, quota, signal, by = null, claim }: RegisterOptions = {},
  ): Promise<{ meta: PrefixMeta; created: boolean }> {
    checkPrefixName(key.name);
    const before = await this.#store.head(key);
    checkPrecondition(before?.digest ?? null, precondition);
    const { kind, kv, files, baseName, baseRevision } = await this.#compile(upload, {
      fold: (input) => this.#fold(input, key, signal),
      tryPrefix: (prefix) => this.#tryPrefix(prefix, key, signal),
    });
    const bytes = kvBytes(kv);
    const digest = await prefixDigest(this.#shape, kv.length, bytes);
    const now = this.#clock().toISOString();
    const meta: PrefixMeta = {
      user: key.user,
      name: key.name,
      kind,
      digest,
      length: kv.length,
      bytes: bytes.length,
      base: this.#base,
      baseName,
      baseRevision,
      createdAt: before?.createdAt ?? now,
      updatedAt: now,
      ...(by === null ? {} : { updatedBy: by }),
      files: Object.fromEntries([...files].map(([name, content]) => [name, content.length])),
      ...sharingOf(before),
    };
    const record: PrefixRecord = { meta, kv: bytes, files };
    if (before !== null && (await this.#isStored(before, record))) return { meta: before, created: false };
    try {
      const { created } = await this.#store.put(record, { precondition, quota, keep: this.#keepVersions, claim });
      return { meta, created };
    } finally {
      // Also after an error: the store may have made the change and failed to report it.
      this.#cache.invalidate(key);
    }
  }

  async info(key: PrefixKey, asker = key.user): Promise<PrefixMeta> {
    const meta = await this.find(key, asker);
    if (meta === null) throw prefixNotFound();
    return meta;
  }

  async find(key: PrefixKey, asker = key.user): Promise<PrefixMeta | null> {
    // Begun before the store is asked, whose time depends on what it has.
    const refusal = asker === key.user ? null : sleep(REFUSAL_MS);
    const meta = isPrefixName(key.name) ? await this.#store.head(key, asker) : null;
    if (meta !== null && mayUse(meta, asker)) return meta;
    await refusal;
    return null;
  }

  async readable(key: PrefixKey, asker = key.user): Promise<PrefixMeta> {
    const meta = await this.info(key, asker);
    if (!mayRead(meta, asker)) throw notReadable(meta);
    return meta;
  }

  async versions(key: PrefixKey, asker = key.user): Promise<PrefixVersion[]> {
    const meta = await this.readable(key, asker);
    return [withoutSharing(meta), ...(await this.#store.versions(key))];
  }

  async restore(key: PrefixKey, digest: string, by: string | null, precondition?: Precondition): Promise<PrefixMeta> {
    const version = (await this.versions(key)).find((one) => one.digest === digest);
    if (version === undefined) throw versionNotFound();
    if (version.base !== this.#base) throw baseMismatch();
    const change = { digest, updatedAt: this.#clock().toISOString(), updatedBy: by, keep: this.#keepVersions };
    try {
      const meta = await this.#store.restore(key, change, precondition);
      if (meta === null) throw prefixNotFound();
      return meta;
    } finally {
      this.#cache.invalidate(key);
    }
  }

  async list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]> {
    if (options.after !== undefined) checkPrefixName(options.after);
    return this.#store.list(user, options);
  }

  async listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]> {
    if (options.after !== undefined) checkPrefixName(options.after.name);
    return this.#store.listShared(user, options);
  }

  isResident({ user, name, digest }: Pick<PrefixMeta, "user" | "name" | "digest">): boolean {
    return this.#cache.holdsPrefix({ user, name }, digest);
  }

  async held(user: string): Promise<HeldPrefixes> {
    return this.#store.held(user);
  }

  async openFile(key: PrefixKey, file: string, asker = key.user): Promise<OpenedFile> {
    for (;;) {
      const meta = await this.readable(key, asker);
      if (!Object.hasOwn(meta.files, file)) throw new PrefixdError("not_found", "The prefix has no such file.");
      const bytes = meta.files[file]!;
      const first = await this.#chunk(meta, file, 0);
      if (first !== null) return { meta, bytes, chunks: this.#chunks(meta, file, first) };
      // Replaced while being read: repeat until a version stays long enough.
      if (isSameVersion(await this.readable(key, asker), meta))
        throw new PrefixdError("prefix_damaged", "The store has lost a file of this prefix; upload it again.");
    }
  }

  async remove(key: PrefixKey, precondition?: Precondition): Promise<void> {
    if (!isPrefixName(key.name)) throw prefixNotFound();
    try {
      if (!(await this.#store.delete(key, precondition))) throw prefixNotFound();
    } finally {
      this.#cache.invalidate(key);
    }
  }

  async patch(key: PrefixKey, sharing: SharingPatch, precondition?: Precondition): Promise<PrefixMeta> {
    if (!isPrefixName(key.name)) throw prefixNotFound();
    try {
      const meta = await this.#store.patchMeta(key, sharing, precondition);
      if (meta === null) throw prefixNotFound();
      return meta;
    } finally {
      this.#cache.invalidate(key);
    }
  }

  async resolve(key: PrefixKey, asker = key.user): Promise<ResolvedPrefix> {
    if (!isPrefixName(key.name)) throw prefixNotFound();
    if (asker !== key.user) await this.info(key, asker);
    const { meta, kv } = await this.#cache.resolve(key, ({ base }) => {
      if (base !== this.#base) throw baseMismatch();
    });
    return { key, digest: meta.digest, kv };
  }

  async *#chunks(meta: PrefixMeta, file: string, first: Uint8Array): AsyncGenerator<Uint8Array> {
    let chunk: Uint8Array | null = first;
    for (let at = 0; ; ) {
      if (chunk === null)
        throw new PrefixdError("prefix_not_found", "The prefix has been replaced or removed while its file was read.");
      yield chunk;
      at += chunk.length;
      if (at >= meta.files[file]!) return;
      chunk = await this.#chunk(meta, file, at);
    }
  }

  /** The next chunk of the file, from byte `at`; null if this version is gone, or the store has lost part of it. */
  async #chunk(meta: PrefixMeta, file: string, at: number): Promise<Uint8Array | null> {
    const length = Math.min(CHUNK_BYTES, meta.files[file]! - at);
    const chunk = await this.#store.loadFile(meta, meta.digest, file, { from: at, length });
    // Another upload of the same tensors has the same digest, but its file may differ.
    const now = await this.#store.head(meta);
    return chunk?.length === length && now?.digest === meta.digest && now.updatedAt === meta.updatedAt ? chunk : null;
  }

  async #compile(upload: PrefixUpload, model: Model): Promise<Compiled> {
    if (upload.kind === "hard") return this.#compileHard(upload.ids, upload.text, model);
    const size = upload.config.length + upload.weights.length;
    if (size > this.#maxUploadBytes)
      throw new PrefixdError(
        "body_too_large",
        `The adapter has ${size} bytes; at most ${this.#maxUploadBytes} are accepted.`,
      );
    const adapter = await inTurns(peftAdapterInSteps(upload.config, upload.weights, this.#shape, this.#base));
    const { peftType: kind, baseName, baseRevision } = adapter;
    const mismatch = this.#requiredBaseName === undefined ? null : baseNameDiffers(baseName, this.#requiredBaseName);
    if (mismatch !== null) throw new PrefixdError("prefix_base_name_mismatch", mismatch);
    const files = new Map([
      [CONFIG_FILE, upload.config],
      [WEIGHTS_FILE, upload.weights],
    ]);
    const kv = "kv" in adapter ? adapter.kv : await this.#foldChecked(adapter.fold, model);
    // Keys and values made by the model come out of layer norms, which bound them.
    if ("kv" in adapter) await model.tryPrefix(kv);
    return { kind, baseName, baseRevision, kv, files };
  }

  async #compileHard(ids: Int32Array, text: string | undefined, model: Model): Promise<Compiled> {
    if (ids.length === 0) throw new PrefixdError("empty_prompt", "A hard prompt needs at least one token.");
    checkLength(ids.length, this.#shape);
    const bad = ids.find((id) => id < 0 || id >= this.#shape.vocabSize);
    if (bad !== undefined)
      throw new PrefixdError(
        "invalid_token_id",
        `Token id ${bad} is not in the vocabulary of ${this.#shape.vocabSize}.`,
      );
    return {
      kind: "HARD_PROMPT",
      baseName: null,
      baseRevision: null,
      kv: await this.#foldChecked({ kind: "tokens", ids }, model),
      files: new Map([[PROMPT_FILE, promptFile(ids, text)]]),
    };
  }

  /** Finite embeddings can still overflow within the model. */
  async #foldChecked(input: FoldInput, model: Model): Promise<KvTensor> {
    const length = foldLength(input);
    const kv = await model.fold(input);
    if (kv.length !== length || kv.data.length !== kvElements(this.#shape, length)) {
      throw new PrefixdError("internal", "Folding the prompt gave keys and values of another size.");
    }
    if (firstNotFinite(kv.data) >= 0) {
      throw new PrefixdError(
        "prefix_not_finite",
        "The base model computes keys or values from this prompt that are not finite.",
      );
    }
    return kv;
  }

  /**
   * A repeated upload, as after a lost response: nothing to write, unless the store's content differs from its record.
   */
  async #isStored(before: PrefixMeta, { meta, kv, files }: PrefixRecord): Promise<boolean> {
    const { updatedAt, updatedBy } = before;
    const same = { ...meta, updatedAt, updatedBy };
    if (updatedBy === undefined) delete same.updatedBy;
    if (!isSameVersion(before, same)) return false;
    try {
      if (!isEqual(await this.#store.loadKv(before, before.digest), kv)) return false;
      for (const [name, content] of files) {
        if (!isEqual(await this.#store.loadFile(before, before.digest, name), content)) return false;
      }
      return true;
    } catch (error) {
      if (error instanceof PrefixdError && error.code === "prefix_damaged") return false;
      throw error;
    }
  }
}

function baseMismatch(): PrefixdError {
  return new PrefixdError(
    "prefix_base_mismatch",
    "The prefix was registered for another base model than the one served here.",
  );
}

/** Runs the steps, with a turn of the event loop in between. */
async function inTurns<T>(steps: Generator<void, T>): Promise<T> {
  for (;;) {
    const step = steps.next();
    if (step.done === true) return step.value;
    await nextTurn();
  }
}

function isSameVersion(a: PrefixMeta, b: PrefixMeta): boolean {
  return isDeepStrictEqual(a, b);
}

function isEqual(stored: Uint8Array | null, bytes: Uint8Array): boolean {
  return stored !== null && Buffer.compare(stored, bytes) === 0;
}
