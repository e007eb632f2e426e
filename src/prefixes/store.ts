/** Where prefixes live. Two implementations (LMDB, Redis) pass one contract suite: test/contract/prefix-store.ts. */

/** A prefix belongs to a user; its name is unique among that user's. */
export interface PrefixKey {
  readonly user: string;
  readonly name: string;
}

/** Show a prefix without its tensors. Small, JSON. */
export interface PrefixMeta {
  readonly user: string;
  readonly name: string;
  /** PEFT type, or HARD_PROMPT. */
  readonly kind: string;
  /** sha256 hex of the canonical bytes: identifies exactly what will be attended to. */
  readonly digest: string;
  /** Virtual tokens, P. */
  readonly length: number;
  /** Bytes of the compiled keys and values. */
  readonly bytes: number;
  /** Fingerprint of the base model it was compiled for. */
  readonly base: string;
  /** The adapter's base_model_name_or_path and revision; null: it names none. Absent in records of before they were kept. */
  readonly baseName?: string | null;
  readonly baseRevision?: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  /** The uploaded files, by name, with their size: what `GET .../adapter` gives back. */
  readonly files: Readonly<Record<string, number>>;
  /** Absent, or private: only the owner and those of the two lists may use it. Shared: every user. */
  readonly visibility?: Visibility;
  /** Users who may send requests with it. */
  readonly shared_with?: readonly string[];
  /** Users who may also have its files. */
  readonly readable_by?: readonly string[];
}

/** What a list tells a user of a prefix: not whom else the owner lets in, which may be thousands. */
export interface ListedPrefix extends Omit<PrefixMeta, "shared_with" | "readable_by"> {
  readonly access: Access;
}

/** What a user may do with a prefix: everything; send requests with it and have its files; send requests with it. */
export type Access = "owner" | "read" | "use";

export type Visibility = "private" | "shared";

/** Fields that are absent stay as they are. */
export interface SharingPatch {
  readonly visibility?: Visibility;
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

/** What a user may have together; null: no limit. */
export interface PrefixQuota {
  readonly max_prefixes: number | null;
  readonly max_prefix_bytes: number | null;
}

/** A whole prefix as stored. */
export interface PrefixRecord {
  readonly meta: PrefixMeta;
  /** Compiled keys and values: little-endian fp32 `[layers, 2, heads, P, headDim]`. */
  readonly kv: Uint8Array;
  /** What was uploaded, by file name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** `ifMatch`: replace or delete only this digest. `ifNoneMatch: "*"`: only create. */
export interface Precondition {
  readonly ifMatch?: readonly string[] | "*";
  readonly ifNoneMatch?: "*";
}

/** A part of a file. */
export interface ByteRange {
  readonly from: number;
  readonly length: number;
}

/** Prefixes, and the bytes of their compiled keys and values. */
export interface HeldPrefixes {
  readonly prefixes: number;
  readonly bytes: number;
}

/** What a removal took away. */
export type RemovedPrefixes = HeldPrefixes;

/** Of a user's removal: begun, finished, or null: there was none lately. */
export type RemovalState = "open" | "done" | null;

/**
 * Atomic per prefix: a reader sees the whole old or the whole new record, also after a crash.
 * Errors: `precondition_failed`, `store_unavailable` (with retryAfter), `store_full`; `put` for a removed user: `removed`.
 */
export interface PrefixStore {
  /** A replaced prefix stays shared as it was, whatever the record says. With a quota also throws `quota_exceeded`. */
  put(record: PrefixRecord, precondition?: Precondition, quota?: PrefixQuota): Promise<{ created: boolean }>;
  /** Changes whom the owner lets in; null: no such prefix. A user who is being removed gets into no list. Can be repeated after an error. */
  patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null>;
  /** null: no such prefix. For an `asker` who may not use it, it is asked for as one is that does not exist, and may be answered so: the time must not tell them apart. */
  head(key: PrefixKey, asker?: string): Promise<PrefixMeta | null>;
  /** The compiled tensors of exactly this digest; null when the prefix is gone or has another digest by now. */
  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null>;
  /** The same for an uploaded file, or for as much of the range as there is of it. */
  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null>;
  /** Pages in ascending order of name. */
  list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]>;
  /** Others' prefixes that the user may use, in ascending order of `owner/name`; costs what the page has, however many prefixes there are. */
  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]>;
  /** How much the user has, without a look at each prefix: what quotas are held against. */
  held(user: string): Promise<HeldPrefixes>;
  /** false: there was none. */
  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean>;
  /**
   * Removes all of a user's prefixes at once, and whatever unfinished uploads left of theirs. From then on every PUT for the
   * user fails with `removed`, also one that is under way on another replica, until `readmitUser`, or until no PUT of before
   * can be left. Others' prefixes are no longer shared with the user. Can be repeated; `last` says that the removal is complete with this call.
   */
  deleteUser(user: string, options?: { last?: boolean }): Promise<RemovedPrefixes>;
  removalState(user: string): Promise<RemovalState>;
  /** A user of this id has been created anew. */
  readmitUser(user: string): Promise<void>;
  /** Called when another process changed a prefix; returns the function that ends it. Stores without replicas never call. */
  onChange(listener: (key: PrefixKey) => void): () => void;
  /** Throws `store_unavailable` when the store cannot serve now. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
