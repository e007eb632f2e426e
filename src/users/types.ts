/** Users, keys, limits and usage. Plain data, stored as JSON. */

/** null: no limit. */
export interface UserLimits {
  /** Sequences running at once, per replica. */
  readonly max_running: number | null;
  /** Requests queued at once, per replica. */
  readonly max_queued: number | null;
  /** Prompt plus completion tokens, over all replicas that share the store. */
  readonly tokens_per_minute: number | null;
  readonly max_prefixes: number | null;
  /** Total bytes of the user's compiled prefixes. */
  readonly max_prefix_bytes: number | null;
}

export const NO_LIMITS: UserLimits = {
  max_running: null,
  max_queued: null,
  tokens_per_minute: null,
  max_prefixes: null,
  max_prefix_bytes: null,
};

export interface User {
  readonly id: string;
  /** Share of the model relative to other users when they compete; usually 1. */
  readonly weight: number;
  readonly limits: UserLimits;
  /** Absent: not suspended. */
  readonly suspended?: true;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** A key as stored: a hash, never the key itself. */
export interface ApiKeyRecord {
  /** Public part of the key; names it in lists, logs and paths. */
  readonly id: string;
  readonly user: string;
  /** sha256 in hex of the whole key. Random 256-bit keys need no slow hash. */
  readonly hash: string;
  readonly createdAt: string;
  /** ISO time, or null: does not expire. */
  readonly expiresAt: string | null;
}

/** The caller of a request. Without keys, every request comes from the local user. */
export interface Principal {
  readonly role: "user" | "admin";
  /** Owner of prefixes whose id names no user. */
  readonly user: string;
  /** As in logs: a user's key by its id, an admin key by its digest's beginning; null: the local user has none. */
  readonly keyId: string | null;
}

/** Totals over a set of requests and registrations. */
export interface UsageSums {
  /** To generate. Registrations are none, though the model's work for them is in the other sums. */
  readonly requests: number;
  readonly prefixTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly queueSeconds: number;
  readonly runSeconds: number;
}

/** Usage of one (user, prefix, day). */
export interface UsageRow extends UsageSums {
  readonly user: string;
  /** Name of the prefix, or null: the bare base model. */
  readonly prefix: string | null;
  /** UTC day, `2026-01-31`. */
  readonly day: string;
}
