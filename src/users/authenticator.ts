import { PrefixdError } from "../errors.ts";
import { VerifiedCache } from "../replicas/verified-cache.ts";
import type { AdminKeys } from "./admin-keys.ts";
import { apiKeyId, bearerKey, hasExpired, matchesHash } from "./api-key.ts";
import type { UserStore } from "./store.ts";
import type { ApiKeyRecord, Principal } from "./types.ts";
import { ADMIN_USER, LOCAL_USER } from "./user-id.ts";

export interface Authenticator {
  /** Whether requests need a key at all. */
  readonly keyed: boolean;
  /**
   * Identifies the caller from the value of an `Authorization` header. Throws `unauthorized`, with the same message
   * for every cause, and `store_unavailable`.
   */
  authenticate(authorization: string | undefined): Promise<Principal>;
  /** Drops the cached keys of this user, or of all users if null. */
  forget(user: string | null): void;
  close(): void;
}

export interface AuthenticatorOptions {
  readonly store: Pick<UserStore, "findKey" | "onChange">;
  readonly adminKeys: AdminKeys;
  /** How long a key is cached, in milliseconds; a revoked key works no longer than this anywhere. Default 1000. */
  readonly verifyMs?: number;
  /** The same while the store is unreachable; after that, 503. Default 10,000. */
  readonly staleMs?: number;
  /** Monotonic clock, in milliseconds. */
  readonly now?: () => number;
  /** Time of day, for expiry. */
  readonly clock?: () => Date;
}

const MAX_KEYS = 20_000;
/** A separate, small bound for unknown key ids, so made-up ids neither evict real ones nor fill memory. */
const MAX_UNKNOWN = 1_000;
const NO_HASH = "0".repeat(64);

/** Treats every request as the local user's, with admin rights. */
export function createKeylessAuthenticator(): Authenticator {
  const local: Principal = { role: "admin", user: LOCAL_USER, keyId: null };
  return { keyed: false, authenticate: async () => local, forget: () => {}, close: () => {} };
}

export function createAuthenticator(options: AuthenticatorOptions): Authenticator {
  return new KeyAuthenticator(options);
}

class KeyAuthenticator implements Authenticator {
  readonly keyed = true;
  readonly #adminKeys: AdminKeys;
  readonly #clock: () => Date;
  readonly #keys: VerifiedCache<string, ApiKeyRecord>;
  readonly #unsubscribe: () => void;

  constructor({ store, adminKeys, clock = () => new Date(), ...times }: AuthenticatorOptions) {
    this.#adminKeys = adminKeys;
    this.#clock = clock;
    this.#keys = new VerifiedCache({
      ask: (id) => store.findKey(id),
      textOf: (id) => id,
      ownerOf: (_id, record) => record?.user,
      max: MAX_KEYS,
      maxAbsent: MAX_UNKNOWN,
      ...times,
    });
    this.#unsubscribe = store.onChange((user) => this.forget(user));
  }

  async authenticate(authorization: string | undefined): Promise<Principal> {
    const key = bearerKey(authorization);
    if (key === undefined) throw unauthorized();
    const adminKey = this.#adminKeys.idOf(key);
    if (adminKey !== null) return { role: "admin", user: ADMIN_USER, keyId: adminKey };
    const id = apiKeyId(key);
    if (id === null) throw unauthorized();
    const { value: record } = await this.#keys.get(id);
    const matches = matchesHash(key, record?.hash ?? NO_HASH);
    if (record === null || !matches || hasExpired(record, this.#clock())) throw unauthorized();
    return { role: "user", user: record.user, keyId: id };
  }

  forget(user: string | null): void {
    if (user === null) this.#keys.clear();
    else this.#keys.forgetOwner(user);
  }

  close(): void {
    this.#unsubscribe();
    this.#keys.clear();
  }
}

/** The error of a request without a valid key. */
export function unauthorized(): PrefixdError {
  return new PrefixdError("unauthorized", "Send a valid key: Authorization: Bearer KEY.");
}
