import type { KvTensor } from "../kv.ts";
import type {
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PrefixQuota,
  Precondition,
  SharingPatch,
} from "./store.ts";

/** PEFT's two files. */
export interface PeftUpload {
  readonly kind: "peft";
  readonly config: Uint8Array;
  readonly weights: Uint8Array;
}

/** What a client registers: PEFT's two files, or a hard prompt already turned into token ids. */
export type PrefixUpload =
  | PeftUpload
  | {
      readonly kind: "hard";
      readonly ids: Int32Array /** The text that the ids came from, if any. */;
      readonly text?: string;
    };

/** A prefix ready to be attended to. */
export interface ResolvedPrefix {
  readonly key: PrefixKey;
  readonly digest: string;
  readonly kv: KvTensor;
}

/** An uploaded file that is read piece by piece, so that it is never whole in memory. */
export interface OpenedFile {
  readonly meta: PrefixMeta;
  readonly bytes: number;
  /** To be gone through once. Throws `prefix_not_found` if the prefix is replaced or removed before the end. */
  readonly pieces: AsyncIterable<Uint8Array>;
}

/** Registration and look-up, over a store and a host cache. Errors: the "prefixes" section of src/errors.ts and the store's. */
export interface PrefixRegistry {
  /**
   * Throws `quota_exceeded` too when there is a quota, and what folding throws. A replaced prefix stays shared as it was. Aborting `signal` gives up
   * a prompt that waits for the model.
   */
  register(
    key: PrefixKey,
    upload: PrefixUpload,
    precondition?: Precondition,
    quota?: PrefixQuota,
    signal?: AbortSignal,
  ): Promise<{ meta: PrefixMeta; created: boolean }>;
  /** Whoever asks (`asker`; absent: the owner) must be the owner or have been let in; else the prefix does not exist. Throws `prefix_not_found`. */
  info(key: PrefixKey, asker?: string): Promise<PrefixMeta>;
  /** The same for who wants its files. Throws `prefix_not_found`, and `prefix_not_readable` for who may only use it. */
  readable(key: PrefixKey, asker?: string): Promise<PrefixMeta>;
  list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]>;
  /** What others share with the user, in ascending order of `owner/name`. */
  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]>;
  /** How many prefixes a user has, and their bytes. */
  held(user: string): Promise<HeldPrefixes>;
  /** An uploaded file, its beginning already read. Throws as `readable`, `not_found`, and `prefix_damaged` where the store has lost it. */
  openFile(key: PrefixKey, file: string, asker?: string): Promise<OpenedFile>;
  /** Throws `prefix_not_found`. */
  remove(key: PrefixKey, precondition?: Precondition): Promise<void>;
  /** Whom the owner lets in. Throws `prefix_not_found`, `precondition_failed`. */
  patch(key: PrefixKey, sharing: SharingPatch, precondition?: Precondition): Promise<PrefixMeta>;
  /** For a request: from the cache if verified lately, else from the store. Throws `prefix_not_found`, `prefix_base_mismatch`, `store_unavailable`. */
  resolve(key: PrefixKey, asker?: string): Promise<ResolvedPrefix>;
}
