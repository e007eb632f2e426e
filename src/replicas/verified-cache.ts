import { LRUCache } from "lru-cache";
import { PrefixdError } from "../errors.ts";

export interface VerifiedCacheOptions<K, V> {
  /** Asks the source; null: there is none. `store_unavailable` means that the source is away, any other error goes to who asked. */
  readonly ask: (key: K) => Promise<V | null>;
  /** One text per key. It is only compared. */
  readonly textOf: (key: K) => string;
  /** Whose it is, as `forgetOwner` is told; `value` is undefined before the first answer. undefined: not known, so that it may be anybody's. */
  readonly ownerOf: (key: K, value: V | null | undefined) => string | undefined;
  /** Values kept; the least recently used goes first. */
  readonly max: number;
  /** Keys of which is kept that there is nothing. Bounded apart, so that made-up keys push out no value. Default 0. */
  readonly maxAbsent?: number;
  /**
   * Milliseconds that an answer is believed without asking again: the longest that a change goes unseen whose notice was lost. 0: ask
   * every time. Default 1000.
   */
  readonly verifyMs?: number;
  /** The same for a value while the source is away; at least `verifyMs`. Default 10,000. */
  readonly staleMs?: number;
  /** Milliseconds of a clock that never goes back. */
  readonly now?: () => number;
}

export interface Answer<V> {
  /** null: there is none. */
  readonly value: V | null;
  /** The source's error, when this is only what was known before. */
  readonly away?: PrefixdError;
}

/** What the source has said of a key. */
interface Known<K, V> {
  readonly key: K;
  readonly value: V | null;
  /** When the source was asked, not when it answered. */
  readonly at: number;
  /** A change has been heard of since: only `peek` still takes it, and `get` while the source is away. */
  outdated: boolean;
}

/** One that the source has not answered yet, shared by all who ask meanwhile. */
interface Question<K, V> {
  readonly key: K;
  readonly answer: Promise<V | null>;
  /** A notice came that concerns it: the answer may be from before the change. */
  overtaken: boolean;
  /** Owners of whom a notice came while nobody knew whose the key is: the answer tells. */
  readonly changedOwners: Set<string>;
}

/** Changes of one key, one after the other, that a `get` waits for. */
const MAX_TURNS = 8;

/**
 * Values of a source that others may change: asked for once however many want one, believed for `verifyMs`, forgotten on notice. What
 * was read before a notice is not believed after it: who waits for it then asks again.
 */
export class VerifiedCache<K, V extends object> {
  readonly #options: VerifiedCacheOptions<K, V>;
  readonly #verifyMs: number;
  readonly #staleMs: number;
  readonly #now: () => number;
  readonly #values: LRUCache<string, Known<K, V>>;
  readonly #absent: LRUCache<string, Known<K, V>> | null;
  readonly #questions = new Map<string, Question<K, V>>();
  /** Of the last answer, if the source was away, and when that was found out. */
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
   * The value as the source has it now, or had it within the bounds.
   * @throws PrefixdError store_unavailable (away, or the key is changed all the time), and what `ask` throws
   */
  async get(key: K): Promise<Answer<V>> {
    const text = this.#options.textOf(key);
    for (let turn = 0; turn < MAX_TURNS; turn++) {
      const known = this.#known(text);
      if (known !== undefined && this.#isFresh(known)) return { value: known.value };
      // A source that hangs is not waited for by everybody anew.
      if (this.#away !== null && this.#now() - this.#away.at < this.#verifyMs && this.#mayBeStale(known))
        return { value: known.value, away: this.#away.error };
      const question = this.#questions.get(text) ?? this.#ask(text, key);
      try {
        const value = await question.answer;
        if (!question.overtaken) return { value };
      } catch (error) {
        if (!isAway(error)) throw error;
        // Looked up again: a notice may have come meanwhile.
        const last = this.#known(text);
        if (this.#mayBeStale(last)) return { value: last.value, away: error };
        throw error;
      }
    }
    throw new PrefixdError("store_unavailable", "What was asked for is being changed all the time.", { retryAfter: 1 });
  }

  /** What is known at once, however old; undefined: nothing. What is no longer believed is asked for in the background. */
  peek(key: K): V | null | undefined {
    const known = this.#known(this.#options.textOf(key));
    if (known !== undefined && !this.#isFresh(known)) this.#getInBackground(key);
    return known?.value;
  }

  /** A change of the key has been heard of: nothing read before is believed. */
  forget(key: K): void {
    const text = this.#options.textOf(key);
    this.#drop(text);
    this.#overtake(text);
  }

  /** The same, but `peek` goes on with the last value until the new one is there, which is asked for now. */
  refresh(key: K): void {
    const text = this.#options.textOf(key);
    this.#overtake(text);
    const known = this.#known(text);
    if (known === undefined) return;
    known.outdated = true;
    this.#getInBackground(key);
  }

  /** `forget` for all keys of an owner, and for those that may be the owner's. Costs a look at each. */
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

  /** Whether a key of the owner is known, or being asked for. */
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

  /** That there was nothing is not believed for longer: it may be there by now. */
  #mayBeStale(known: Known<K, V> | undefined): known is Known<K, V> {
    return known !== undefined && known.value !== null && this.#now() - known.at < this.#staleMs;
  }

  #getInBackground(key: K): void {
    // A failure leaves what is known, and is seen by the next who cannot do with that.
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

  /** Who asks from now on must not share the question. */
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
