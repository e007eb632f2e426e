/**
 * The storage of prefixes. Both implementations (LMDB, Redis) pass the contract suite test/contract/prefix-store.ts.
 */

/** A prefix belongs to a user; its name is unique among that user's. */
export interface PrefixKey {
  readonly user: string;
  readonly name: string;
}

/** A prefix's metadata: small, JSON, no tensors. */
export interface PrefixMeta {
  readonly user: string;
  readonly name: string;
  /** PEFT type, or HARD_PROMPT. */
  readonly kind: string;
  /** sha256 in hex of the canonical bytes: identifies exactly what is attended to. */
  readonly digest: string;
  /** Virtual tokens, P. */
  readonly length: number;
  /** Bytes of the compiled keys and values. */
  readonly bytes: number;
  /** Fingerprint of the base model it was compiled for. */
  readonly base: string;
  /** The adapter's base_model_name_or_path and revision; null if it names none. Absent in old records. */
  readonly baseName?: string | null;
  readonly baseRevision?: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  /** Who uploaded or put back this version: a key's id, or the user of a request without one. Absent: unknown. */
  readonly updatedBy?: string | null;
  /** Name and size of the uploaded files, which `GET .../adapter` returns. */
  readonly files: Readonly<Record<string, number>>;
  /** Absent or private: only the owner and the users of both lists may use it. shared: every user. */
  readonly visibility?: Visibility;
  /** Users who may send requests with it. */
  readonly shared_with?: readonly string[];
  /** Users who may also download its files. */
  readonly readable_by?: readonly string[];
}

/** A version that was replaced, as it was. Sharing belongs to the prefix, not to a version. */
export type PrefixVersion = Omit<PrefixMeta, "visibility" | "shared_with" | "readable_by">;

/** The change that puts a version back. */
export interface VersionChange {
  readonly digest: string;
  /** ISO time of the change. */
  readonly updatedAt: string;
  /** Who makes it; null: nobody in particular. */
  readonly updatedBy: string | null;
  /** Versions to keep then. */
  readonly keep: number;
}

/** A prefix in a list. Omits the sharing lists, which may have thousands of users. */
export interface ListedPrefix extends Omit<PrefixMeta, "shared_with" | "readable_by"> {
  readonly access: Access;
}

/** owner: everything; read: send requests with it and download its files; use: send requests with it. */
export type Access = "owner" | "read" | "use";

export type Visibility = "private" | "shared";

/** Absent fields stay unchanged. */
export interface SharingPatch {
  readonly visibility?: Visibility;
  readonly shared_with?: readonly string[];
  readonly readable_by?: readonly string[];
}

/** Limits of all of a user's prefixes together; null: no limit. */
export interface PrefixQuota {
  readonly max_prefixes: number | null;
  readonly max_prefix_bytes: number | null;
}

/** A whole stored prefix. */
export interface PrefixRecord {
  readonly meta: PrefixMeta;
  /** Compiled keys and values: little-endian fp32 `[layers, 2, heads, P, headDim]`. */
  readonly kv: Uint8Array;
  /** Uploaded files by name. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** A part of the prefixes shared with a user. */
export interface SharedPart {
  /** As many as asked for or fewer, even none. */
  readonly found: readonly ListedPrefix[];
  /** `keyText` of where the next part continues; null: this is the last one. */
  readonly next: string | null;
}

/** `ifMatch`: replace or delete only this digest. `ifNoneMatch: "*"`: only create. */
export interface Precondition {
  readonly ifMatch?: readonly string[] | "*";
  readonly ifNoneMatch?: "*";
}

/** A claim on a training job of the prefix's user, whose result is put. */
export interface JobClaim {
  readonly id: string;
  readonly holder: string;
}

/** A part of a file. */
export interface ByteRange {
  readonly from: number;
  readonly length: number;
}

/** Number of prefixes, and the bytes of their compiled keys and values, earlier versions' included. */
export interface HeldPrefixes {
  readonly prefixes: number;
  readonly bytes: number;
}

/** What a removal deleted. */
export type RemovedPrefixes = HeldPrefixes;

/** State of a user's removal: begun, finished, or null if there was none recently. */
export type RemovalState = "open" | "done" | null;

export interface PutOptions {
  readonly precondition?: Precondition | undefined;
  /** Throws `quota_exceeded`. */
  readonly quota?: PrefixQuota | undefined;
  /** Earlier versions to keep, as far as the quota has room for them; default 0. */
  readonly keep?: number;
  /** Throws `precondition_failed` if another replica holds the job by now; where there are none, claims are not lost. */
  readonly claim?: JobClaim | undefined;
}

/**
 * Atomic per prefix: a reader sees the whole old or the whole new record, even after a crash. Errors:
 * `precondition_failed`, `store_unavailable` (with retryAfter), `store_full`; `put` for a removed user: `removed`.
 */
export interface PrefixStore {
  /** A replaced prefix keeps its sharing, whatever the record says. */
  put(record: PrefixRecord, options?: PutOptions): Promise<{ created: boolean }>;
  /** Earlier versions, the one replaced last first; none if there is no such prefix. */
  versions(key: PrefixKey): Promise<PrefixVersion[]>;
  /**
   * Makes an earlier version the current one, which becomes an earlier one; null if there is no such prefix. Nothing
   * changes if the digest is the current one's. Throws `version_not_found`.
   */
  restore(key: PrefixKey, change: VersionChange, precondition?: Precondition): Promise<PrefixMeta | null>;
  /**
   * Changes the sharing; null if there is no such prefix. A user being removed is not added to any list. Can be
   * repeated after an error.
   */
  patchMeta(key: PrefixKey, patch: SharingPatch, precondition?: Precondition): Promise<PrefixMeta | null>;
  /**
   * null if there is no such prefix. For an `asker` without access the store does the same look-up, and may return
   * null: timing must not reveal whether the prefix exists.
   */
  head(key: PrefixKey, asker?: string): Promise<PrefixMeta | null>;
  /** The compiled tensors of exactly this digest; null if the prefix is gone or has another digest by now. */
  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null>;
  /** The same for an uploaded file, or as much of the range as exists. */
  loadFile(key: PrefixKey, digest: string, file: string, range?: ByteRange): Promise<Uint8Array | null>;
  /**
   * One page, in ascending order of name. A store may be blocked for it, so `limit` should be in the hundreds at most.
   */
  list(user: string, options: { after?: string; limit: number }): Promise<ListedPrefix[]>;
  /**
   * Others' prefixes that the user may use, in ascending order of `owner/name`. The cost depends on the page, not on
   * the number of prefixes.
   */
  listShared(user: string, options: { after?: PrefixKey; limit: number }): Promise<ListedPrefix[]>;
  /** The user's totals for quotas, without reading each prefix. */
  held(user: string): Promise<HeldPrefixes>;
  /** False if there was none. */
  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean>;
  /**
   * Removes all of a user's prefixes at once, and the leftovers of unfinished uploads. From then on every PUT for the
   * user fails with `removed`, even one running on another replica, until `readmitUser`, or until no earlier PUT can
   * still be running. Others' prefixes are no longer shared with the user. Can be repeated; `last` marks the call that
   * completes the removal.
   */
  deleteUser(user: string, options?: { last?: boolean }): Promise<RemovedPrefixes>;
  removalState(user: string): Promise<RemovalState>;
  /** Call when a user with this id has been created again. */
  readmitUser(user: string): Promise<void>;
  /**
   * Registers a listener for changes by other processes; returns the function that removes it. Stores without replicas
   * never call it.
   */
  onChange(listener: (key: PrefixKey) => void): () => void;
  /** Throws `store_unavailable` if the store cannot serve now. */
  ping(): Promise<void>;
  close(): Promise<void>;
}
