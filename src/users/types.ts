/** Who may do what, and how much of it. Plain data; what is kept of it in a store is JSON. */

/** null: no limit. */
export interface UserLimits {
  /** Sequences that run at once, on each replica. */
  readonly max_running: number | null;
  /** Requests that wait at once, on each replica. */
  readonly max_queued: number | null;
  /** Prompt and completion tokens, over all replicas that share the store. */
  readonly tokens_per_minute: number | null;
  readonly max_prefixes: number | null;
  /** Bytes of compiled prefixes together. */
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
  /** Share of the model relative to other users when they compete for it; usually 1. */
  readonly weight: number;
  readonly limits: UserLimits;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** A key as it is kept: never the key itself. */
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

/** Who a request is from. Without keys configured every request is from the local user. */
export interface Principal {
  readonly role: "user" | "admin";
  /** Whose prefixes are meant when an id names no user. */
  readonly user: string;
  /** null: the admin key, or the local user without a key. */
  readonly keyId: string | null;
}

/** What requests have used together. */
export interface UsageSums {
  readonly requests: number;
  readonly prefixTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  readonly queueSeconds: number;
  readonly runSeconds: number;
}

/** One line of the bill. */
export interface UsageRow extends UsageSums {
  readonly user: string;
  /** Name of the prefix, or null: the bare base model. */
  readonly prefix: string | null;
  /** UTC day, `2026-01-31`. */
  readonly day: string;
}
