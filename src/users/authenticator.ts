import { createHash, timingSafeEqual } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { VerifiedCache } from "../replicas/verified-cache.ts";
import { apiKeyId, hasExpired, matchesHash } from "./api-key.ts";
import type { UserStore } from "./store.ts";
import type { ApiKeyRecord, Principal } from "./types.ts";
import { ADMIN_USER, LOCAL_USER } from "./user-id.ts";

export interface Authenticator {
  /** Whether requests need a key at all. */
  readonly keyed: boolean;
  /** Whom the value of an `Authorization` header stands for. Throws `unauthorized`, the same for every cause, and `store_unavailable`. */
  authenticate(authorization: string | undefined): Promise<Principal>;
  /** Believes nothing of this user's keys without asking again; without a user, of any. */
  forget(user: string | null): void;
  close(): void;
}

export interface AuthenticatorOptions {
  readonly store: Pick<UserStore, "findKey" | "onChange">;
  readonly adminKey: string;
  /** Milliseconds that a key is believed without asking again: the longest that a revoked one works anywhere. Default 1000. */
  readonly verifyMs?: number;
  /** The same while the store cannot be reached; then 503. Default 10,000. */
  readonly staleMs?: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
  /** Time of day, for expiry. */
  readonly clock?: () => Date;
}

const MAX_KEYS = 20_000;
/** Ids that are made up must not push out those that are not, nor stay. */
const MAX_UNKNOWN = 1_000;
const NO_HASH = "0".repeat(64);

/** Every request is from the local user, who may do everything that there is without users. */
export function createKeylessAuthenticator(): Authenticator {
  const local: Principal = { role: "admin", user: LOCAL_USER, keyId: null };
  return { keyed: false, authenticate: async () => local, forget: () => {}, close: () => {} };
}

export function createAuthenticator(options: AuthenticatorOptions): Authenticator {
  return new KeyAuthenticator(options);
}

class KeyAuthenticator implements Authenticator {
  readonly keyed = true;
  readonly #adminDigest: Buffer;
  readonly #clock: () => Date;
  readonly #keys: VerifiedCache<string, ApiKeyRecord>;
  readonly #unsubscribe: () => void;

  constructor({ store, adminKey, clock = () => new Date(), ...times }: AuthenticatorOptions) {
    this.#adminDigest = sha256(adminKey);
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
    const key = /^Bearer +([\x21-\x7e]{1,512}) *$/i.exec(authorization ?? "")?.[1];
    if (key === undefined) throw unauthorized();
    // Digests have one length, so that the time tells nothing of the admin key's.
    if (timingSafeEqual(sha256(key), this.#adminDigest)) return { role: "admin", user: ADMIN_USER, keyId: null };
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

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function unauthorized(): PrefixdError {
  return new PrefixdError("unauthorized", "Send a valid key: Authorization: Bearer KEY.");
}
