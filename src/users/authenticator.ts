import { createHash, timingSafeEqual } from "node:crypto";
import { LRUCache } from "lru-cache";
import { PrefixdError } from "../errors.ts";
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

interface Known {
  /** null: there is no such key. */
  readonly record: ApiKeyRecord | null;
  /** When the store was asked, not when it answered. */
  readonly at: number;
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
  readonly #store: AuthenticatorOptions["store"];
  readonly #adminDigest: Buffer;
  readonly #verifyMs: number;
  readonly #staleMs: number;
  readonly #now: () => number;
  readonly #clock: () => Date;
  readonly #known = new LRUCache<string, Known>({ max: MAX_KEYS });
  readonly #unknown = new LRUCache<string, Known>({ max: MAX_UNKNOWN });
  readonly #asking = new Map<string, Promise<Known>>();
  readonly #unsubscribe: () => void;

  constructor(options: AuthenticatorOptions) {
    this.#store = options.store;
    this.#adminDigest = sha256(options.adminKey);
    this.#verifyMs = options.verifyMs ?? 1000;
    this.#staleMs = Math.max(this.#verifyMs, options.staleMs ?? 10_000);
    this.#now = options.now ?? (() => performance.now());
    this.#clock = options.clock ?? (() => new Date());
    this.#unsubscribe = options.store.onChange((user) => this.forget(user));
  }

  async authenticate(authorization: string | undefined): Promise<Principal> {
    const key = /^Bearer +([\x21-\x7e]{1,512}) *$/i.exec(authorization ?? "")?.[1];
    if (key === undefined) throw unauthorized();
    // Digests have one length, so that the time tells nothing of the admin key's.
    if (timingSafeEqual(sha256(key), this.#adminDigest)) return { role: "admin", user: ADMIN_USER, keyId: null };
    const id = apiKeyId(key);
    if (id === null) throw unauthorized();
    const record = await this.#find(id);
    const matches = matchesHash(key, record?.hash ?? NO_HASH);
    if (record === null || !matches || hasExpired(record, this.#clock())) throw unauthorized();
    return { role: "user", user: record.user, keyId: id };
  }

  close(): void {
    this.#unsubscribe();
    this.#known.clear();
    this.#unknown.clear();
  }

  async #find(id: string): Promise<ApiKeyRecord | null> {
    const known = this.#known.get(id) ?? this.#unknown.get(id);
    if (known !== undefined && this.#now() - known.at < this.#verifyMs) return known.record;
    try {
      return (await (this.#asking.get(id) ?? this.#ask(id))).record;
    } catch (error) {
      // Looked up again: a change may have been heard of meanwhile.
      const last = this.#known.get(id);
      if (last === undefined || this.#now() - last.at >= this.#staleMs) throw error;
      return last.record;
    }
  }

  #ask(id: string): Promise<Known> {
    const at = this.#now();
    const asked = this.#store.findKey(id).then((record) => ({ record, at }));
    this.#asking.set(id, asked);
    // Only the current question's answer is kept: one that a change has overtaken serves who asked it, and nobody after.
    const settle = (known: Known | undefined): void => {
      if (this.#asking.get(id) !== asked) return;
      this.#asking.delete(id);
      if (known === undefined) return;
      this.#known.delete(id);
      (known.record === null ? this.#unknown : this.#known).set(id, known);
    };
    asked.then(settle, () => settle(undefined));
    return asked;
  }

  forget(user: string | null): void {
    for (const [id, { record }] of [...this.#known]) if (user === null || record?.user === user) this.#known.delete(id);
    this.#unknown.clear();
    this.#asking.clear();
  }
}

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

function unauthorized(): PrefixdError {
  return new PrefixdError("unauthorized", "Send a valid key: Authorization: Bearer KEY.");
}
