import { LRUCache } from "lru-cache";
import { PrefixdError } from "../errors.ts";

export interface VerifiedCacheOptions<K, V> {
  /**
   * Asks the source; null: no such value. The error `store_unavailable` means that the source is away; other errors go
   * to the caller.
   */
  readonly ask: (key: K) => Promise<V | null>;
  /** A unique text per key, used only for comparison. */
  readonly textOf: (key: K) => string;
  /**
   * The owner, for `forgetOwner`. `value` is undefined before the first answer. Returns undefined if the owner is
   * unknown, so that the key may be anyone's.
   */
  readonly ownerOf: (key: K, value: V | null | undefined) => string | undefined;
  /** Maximum number of values; evicts the least recently used. */
  readonly max: number;
  /** Maximum number of keys known to be absent; separate, so that made-up keys evict no value. Default 0. */
  readonly maxAbsent?: number;
  /**
   * How long an answer is used without asking again, in milliseconds: the longest that a change goes unseen if its
   * notice was lost. 0: ask every time. Default 1000.
   */
  readonly verifyMs?: number;
  /** The same for a value while the source is away; at least `verifyMs`. Default 10,000. */
  readonly staleMs?: number;
  /** Monotonic clock, in milliseconds. */
  readonly now?: () => number;
}

export interface Answer<V> {
  /** null: no such value. */
  readonly value: V | null;
  /** The source's error, if it is away and `value` is the last one known. */
  readonly away?: PrefixdError;
}

/** The source's last answer for a key. */
interface Known<K, V> {
  readonly key: K;
  readonly value: V | null;
  /** When the source was asked, not when it answered. */
  readonly at: number;
  /** Changed since: only `peek` still uses it, and `get` while the source is away. */
  outdated: boolean;
}

/** A pending request to the source, shared by all callers for this key. */
interface Question<K, V> {
  readonly key: K;
  readonly answer: Promise<V | null>;
  /** A change was reported meanwhile: the answer may predate it. */
  overtaken: boolean;
  /** Owners reported as changed while this key's owner is unknown; the answer reveals whether it is one of them. */
  readonly changedOwners: Set<string>;
}

/** How often a `get` asks again because the key changed meanwhile. */
const MAX_TURNS = 8;

/**
 * Caches values from a source that others may change. Concurrent callers share one request, answers are used for
 * `verifyMs`, and a notice of a change drops them. An answer requested before a notice is not used after it: its
 * waiting callers ask again.
 */
export class VerifiedCache<K, V extends object> {
  readonly #options: VerifiedCacheOptions<K, V>;
  readonly #verifyMs: number;
  readonly #staleMs: number;
  readonly #now: () => number;
  readonly #values: LRUCache<string, Known<K, V>>;
  readonly #absent: LRUCache<string, Known<K, V>> | null;
  readonly #questions = new Map<string, Question<K, V>>();
  /** The last answer's error, if the source was away, and when it came. */
  #away: { readonly error: PrefixdError; readonly at: number } | null = null;

  constructor(options: VerifiedCacheOptions<K, V>) {
    const { max, maxAbsent = 0, verifyMs = 1000, staleMs = 10_000, now = () => performance.now() } = options;
    this.#options = options;
    this.#verifyMs = verifyMs;
    this.#staleMs = Math.max(verifyMs, staleMs);
    this.#now = now;
    this.#values = new LRUCache({ max });
    this.#absent = maxAbsent === 0 ? null : new LRUCache({ max: maxAbsent });
  }

  /**
   * The current value, or one no older than `verifyMs` (`staleMs` while the source is away).
   * @throws PrefixdError store_unavailable (away, or the key keeps changing), and what `ask` throws
   */
  async get(key: K): Promise<Answer<V>> {
    const text = this.#options.textOf(key);
    for (let turn = 0; turn < MAX_TURNS; turn++) {
      const known = this.#known(text);
      if (known !== undefined && this.#isFresh(known)) return { value: known.value };
      // If the source was away a moment ago, use a stale value rather than wait for a source that may hang.
      if (this.#away !== null && this.#now() - this.#away.at < this.#verifyMs && this.#mayBeStale(known))
        return { value: known.value, away: this.#away.error };
      const question = this.#questions.get(text) ?? this.#ask(text, key);
      try {
        const value = await question.answer;
        if (!question.overtaken) return { value };
      } catch (error) {
        if (!isAway(error)) throw error;
        // Look up again: a notice may have come meanwhile.
        const last = this.#known(text);
        if (this.#mayBeStale(last)) return { value: last.value, away: error };
        throw error;
      }
    }
    throw new PrefixdError("store_unavailable", "The record keeps being changed; repeat the request.", {
      retryAfter: 1,
    });
  }

  /** The last known value, however old; undefined: none. Refreshes an outdated value in the background. */
  peek(key: K): V | null | undefined {
    const known = this.#known(this.#options.textOf(key));
    if (known !== undefined && !this.#isFresh(known)) this.#getInBackground(key);
    return known?.value;
  }

  /** Call when the key has changed: nothing read before is used again. */
  forget(key: K): void {
    const text = this.#options.textOf(key);
    this.#drop(text);
    this.#overtake(text);
  }

  /** Like `forget`, but requests the new value at once, and `peek` keeps the old one until it arrives. */
  refresh(key: K): void {
    const text = this.#options.textOf(key);
    this.#overtake(text);
    const known = this.#known(text);
    if (known === undefined) return;
    known.outdated = true;
    this.#getInBackground(key);
  }

  /** `forget` for all keys that are, or may be, this owner's. Scans all entries. */
  forgetOwner(owner: string): void {
    const { ownerOf } = this.#options;
    for (const [text, { key, value }] of this.#all()) {
      const whose = ownerOf(key, value);
      if (whose === undefined || whose === owner) this.#drop(text);
    }
    for (const [text, { key, changedOwners }] of [...this.#questions]) {
      const whose = ownerOf(key, undefined);
      if (whose === owner) this.#overtake(text);
      else if (whose === undefined) changedOwners.add(owner);
    }
  }

  /** `forget` for all keys. */
  clear(): void {
    this.#values.clear();
    this.#absent?.clear();
    for (const text of [...this.#questions.keys()]) this.#overtake(text);
  }

  /** Whether a key of this owner is cached or being requested. */
  knowsOf(owner: string): boolean {
    const { ownerOf } = this.#options;
    return (
      this.#all().some(([, { key, value }]) => ownerOf(key, value) === owner) ||
      [...this.#questions.values()].some(({ key }) => ownerOf(key, undefined) === owner)
    );
  }

  #known(text: string): Known<K, V> | undefined {
    return this.#values.get(text) ?? this.#absent?.get(text);
  }

  #all(): [string, Known<K, V>][] {
    return [...this.#values.entries(), ...(this.#absent?.entries() ?? [])];
  }

  #isFresh({ at, outdated }: Known<K, V>): boolean {
    return !outdated && this.#now() - at < this.#verifyMs;
  }

  /** Absence is never used longer than `verifyMs`: the value may exist by now. */
  #mayBeStale(known: Known<K, V> | undefined): known is Known<K, V> {
    return known !== undefined && known.value !== null && this.#now() - known.at < this.#staleMs;
  }

  #getInBackground(key: K): void {
    // On failure the old value stays; the next caller that needs a fresh one gets the error.
    this.get(key).catch(() => undefined);
  }

  #ask(text: string, key: K): Question<K, V> {
    const at = this.#now();
    const question: Question<K, V> = {
      key,
      answer: this.#options.ask(key).then(
        (value) => {
          this.#away = null;
          this.#settle(text, question, { key, value, at, outdated: false });
          return value;
        },
        (error: unknown) => {
          this.#away = isAway(error) ? { error, at: this.#now() } : this.#away;
          this.#endQuestion(text, question);
          throw error;
        },
      ),
      overtaken: false,
      changedOwners: new Set(),
    };
    this.#questions.set(text, question);
    return question;
  }

  #settle(text: string, question: Question<K, V>, known: Known<K, V>): void {
    this.#endQuestion(text, question);
    if (question.changedOwners.size > 0) {
      const whose = this.#options.ownerOf(known.key, known.value);
      question.overtaken ||= whose === undefined || question.changedOwners.has(whose);
    }
    if (question.overtaken) return;
    this.#drop(text);
    if (known.value === null) this.#absent?.set(text, known);
    else this.#values.set(text, known);
  }

  #endQuestion(text: string, question: Question<K, V>): void {
    if (this.#questions.get(text) === question) this.#questions.delete(text);
  }

  #drop(text: string): void {
    this.#values.delete(text);
    this.#absent?.delete(text);
  }

  /** Later callers must not share this request. */
  #overtake(text: string): void {
    const question = this.#questions.get(text);
    if (question === undefined) return;
    question.overtaken = true;
    this.#questions.delete(text);
  }
}

function isAway(error: unknown): error is PrefixdError {
  return error instanceof PrefixdError && error.code === "store_unavailable";
}
