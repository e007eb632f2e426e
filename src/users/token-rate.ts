/**
 * A user's tokens per minute, as a leaky bucket: spent tokens drain at limit / 60 per second. A request is admitted
 * while the bucket holds less than the limit. Its maximum cost is added on admission and the unused part is refunded
 * at its end. It may overfill the bucket; then nothing is admitted until that debt has drained. The bucket stores
 * tokens spent, not tokens left, so a changed limit takes effect at once.
 */
import { PrefixdError } from "../errors.ts";

export const WINDOW_SECONDS = 60;

export interface Spending {
  /** false: the bucket was full, and nothing was spent. */
  readonly admitted: boolean;
  /** Tokens in the bucket now, accurate to less than one token. */
  readonly spent: number;
}

/** One bucket per user. Contract suite: test/contract/token-buckets.ts. */
export interface TokenBuckets {
  /** Adds `tokens` if the bucket is not full. `limit` > 0, in tokens per minute. */
  admit(user: string, limit: number, tokens: number): Promise<Spending>;
  /** Adds `tokens` even to a full bucket; a negative number is a refund. */
  charge(user: string, limit: number, tokens: number): Promise<void>;
}

/** The token rate limit as a generate request uses it. */
export interface TokenRate {
  /** @throws PrefixdError token_rate_exceeded */
  admit(user: string, tokens: number): Promise<void>;
  /** Charges tokens beyond those admitted; a negative number refunds unused ones. Never fails. */
  charge(user: string, tokens: number): void;
}

/** Calls `limitOf` on each use; null: no limit. */
export class UserTokenRate implements TokenRate {
  readonly #buckets: TokenBuckets;
  readonly #limitOf: (user: string) => number | null;

  constructor(buckets: TokenBuckets, limitOf: (user: string) => number | null) {
    this.#buckets = buckets;
    this.#limitOf = limitOf;
  }

  async admit(user: string, tokens: number): Promise<void> {
    const quota = this.#limitOf(user);
    if (quota === null) return;
    if (quota <= 0) throw exceeded(0, 0, tokens, WINDOW_SECONDS);
    const { admitted, spent } = await this.#buckets.admit(user, quota, tokens);
    // The bucket is full at exactly the limit, so one more token than the excess must drain.
    if (!admitted) throw exceeded(quota, spent, tokens, ((Math.max(0, spent - quota) + 1) * WINDOW_SECONDS) / quota);
  }

  charge(user: string, tokens: number): void {
    const quota = this.#limitOf(user);
    // Ignore an unreachable bucket: the next admission meets the same error and reports it.
    if (quota !== null && quota > 0 && tokens !== 0)
      void this.#buckets.charge(user, quota, tokens).catch(() => undefined);
  }
}

function exceeded(quota: number, spent: number, asked: number, resetSeconds: number): PrefixdError {
  const limit = { name: "tokens", quota, remaining: 0, resetSeconds, windowSeconds: WINDOW_SECONDS } as const;
  const detail = `tokens_per_minute of this user is ${quota}, and ${Math.floor(spent)} are used up; this request may take ${asked} more.`;
  return new PrefixdError("token_rate_exceeded", detail, { retryAfter: resetSeconds, limit });
}

/** With fewer buckets than this, sweeping out drained ones is not worth it. */
const SWEEP_FROM = 1024;

/** The buckets of one process. Drained ones are dropped, so memory holds only recently active users' buckets. */
export class MemoryTokenBuckets implements TokenBuckets {
  readonly #buckets = new Map<string, { spent: number; at: number; limit: number }>();
  readonly #now: () => number;
  #sweepAt = SWEEP_FROM;

  /** `now` in milliseconds. */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  get size(): number {
    return this.#buckets.size;
  }

  admit(user: string, limit: number, tokens: number): Promise<Spending> {
    const spent = this.#drained(user, limit);
    if (spent >= limit) return Promise.resolve({ admitted: false, spent });
    return Promise.resolve({ admitted: true, spent: this.#put(user, limit, spent + tokens) });
  }

  charge(user: string, limit: number, tokens: number): Promise<void> {
    this.#put(user, limit, this.#drained(user, limit) + tokens);
    return Promise.resolve();
  }

  #drained(user: string, limit: number): number {
    const bucket = this.#buckets.get(user);
    if (bucket === undefined) return 0;
    return Math.max(0, bucket.spent - ((this.#now() - bucket.at) / 1000) * (limit / WINDOW_SECONDS));
  }

  #put(user: string, limit: number, tokens: number): number {
    const spent = Math.max(0, tokens);
    this.#buckets.set(user, { spent, at: this.#now(), limit });
    if (this.#buckets.size > this.#sweepAt) this.#sweep();
    return spent;
  }

  #sweep(): void {
    for (const [user, { limit }] of this.#buckets) if (this.#drained(user, limit) === 0) this.#buckets.delete(user);
    this.#sweepAt = Math.max(SWEEP_FROM, 2 * this.#buckets.size);
  }
}
