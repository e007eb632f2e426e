import type { KvTensor } from "../kv.ts";
import type {
  HeldPrefixes,
  ListedPrefix,
  PrefixKey,
  PrefixMeta,
  PutOptions,
  PrefixVersion,
  Precondition,
  SharingPatch,
} from "./store.ts";

/** PEFT's two files. */
export interface PeftUpload {
  readonly kind: "peft";
  readonly config: Uint8Array;
  readonly weights: Uint8Array;
}

/** A client's upload: PEFT's two files, or a hard prompt already tokenised. */
export type PrefixUpload =
  | PeftUpload
  | {
      readonly kind: "hard";
      readonly ids: Int32Array /** The text that the ids came from, if any. */;
      readonly text?: string;
    };

/** A prefix ready for attention. */
export interface ResolvedPrefix {
  readonly key: PrefixKey;
  readonly digest: string;
  readonly kv: KvTensor;
}

/** An uploaded file read in chunks, so that it is never whole in memory. */
export interface OpenedFile {
  readonly meta: PrefixMeta;
  readonly bytes: number;
  /** Iterate once. Throws `prefix_not_found` if the prefix is replaced or removed before the end. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

export interface RegisterOptions extends Omit<PutOptions, "keep"> {
  /** Gives up a prompt that waits for the model. */
  readonly signal?: AbortSignal | undefined;
  /** Who does it, in the list of versions; null: nobody in particular. */
  readonly by?: string | null;
}

/**
 * Registration and look-up over a store and a host cache. Errors: the "prefixes" section of src/errors.ts and the
 * store's.
 */
export interface PrefixRegistry {
  /**
   * Registers or replaces a prefix; a replaced one keeps its sharing. Also throws `quota_exceeded`, and what folding
   * throws.
   */
  register(
    key: PrefixKey,
    upload: PrefixUpload,
    options?: RegisterOptions,
  ): Promise<{ meta: PrefixMeta; created: boolean }>;
  /**
   * The versions of a prefix, for those who may read its files: the current one, then earlier ones, the one replaced
   * last first. Throws as `readable`.
   */
  versions(key: PrefixKey, asker?: string): Promise<PrefixVersion[]>;
  /**
   * Makes an earlier version current. Throws `prefix_not_found`, `version_not_found`, `precondition_failed`, and
   * `prefix_base_mismatch` for a version that was made for another base model.
   */
  restore(key: PrefixKey, digest: string, by: string | null, precondition?: Precondition): Promise<PrefixMeta>;
  /**
   * A prefix's metadata for `asker` (default: the owner). For a user without access the prefix does not exist. Throws
   * `prefix_not_found`.
   */
  info(key: PrefixKey, asker?: string): Promise<PrefixMeta>;
  /** The same; null instead of `prefix_not_found`. */
  find(key: PrefixKey, asker?: string): Promise<PrefixMeta | null>;
  /**
   * The same for reading its files. Throws `prefix_not_found`, and `prefix_not_readable` for those who may only use it.
   */
  readable(key: PrefixKey, asker?: string): Promise<PrefixMeta>;
  list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]>;
  /** Prefixes shared with the user, in ascending order of `owner/name`. */
  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]>;
  /** Whether it has been used under its name and is in this process's memory, so that a request need not load it. */
  isResident(prefix: Pick<PrefixMeta, "user" | "name" | "digest">): boolean;
  /** The number and total size of a user's prefixes. */
  held(user: string): Promise<HeldPrefixes>;
  /**
   * Opens an uploaded file and reads its beginning. Throws as `readable`, `not_found`, and `prefix_damaged` if the
   * store has lost it.
   */
  openFile(key: PrefixKey, file: string, asker?: string): Promise<OpenedFile>;
  /** Throws `prefix_not_found`. */
  remove(key: PrefixKey, precondition?: Precondition): Promise<void>;
  /** Changes the sharing. Throws `prefix_not_found`, `precondition_failed`. */
  patch(key: PrefixKey, sharing: SharingPatch, precondition?: Precondition): Promise<PrefixMeta>;
  /**
   * The prefix for a request: from the cache if recently verified, else from the store. Throws `prefix_not_found`,
   * `prefix_base_mismatch`, `store_unavailable`.
   */
  resolve(key: PrefixKey, asker?: string): Promise<ResolvedPrefix>;
}
