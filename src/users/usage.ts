/**
 * What requests have used, added up per (user, prefix, UTC day) and written in batches: a request costs one look-up in a map, and the
 * store one write per row that changed, however many requests there were.
 */
import type { UserStore } from "./store.ts";
import type { UsageRow } from "./types.ts";

export interface RequestUsage {
  readonly user: string;
  /** null: the bare base model. */
  readonly prefix: string | null;
  readonly prefixTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** From submission until it began to run, or to its end if it never did. */
  readonly queueSeconds: number;
  readonly runSeconds: number;
}

export interface UsageRecorderOptions {
  readonly sink: Pick<UserStore, "addUsage">;
  readonly flushMs?: number;
  /** Rows in memory above which prefixes are no longer told apart. */
  readonly maxRows?: number;
  /** Rows per call of the sink. */
  readonly batchRows?: number;
  /** Hears of every flush that failed. */
  readonly onError?: (error: unknown) => void;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

type Sums = { -readonly [K in keyof UsageRow]: UsageRow[K] };

/** What rows beyond `maxRows` are counted under: no prefix can have this name. */
export const OTHER_PREFIXES = "*";
const MAX_BACKOFF_MS = 10_000;

/**
 * A batch is out of memory only while the sink has it, and comes back into it when the sink fails: nothing is lost or counted twice
 * as long as a failed `addUsage` has added nothing. Failures are tried again after 2, 4, ... times `flushMs`, at most 10 s, in
 * smaller batches, so that a row which cannot be written does not hold up the others. While the store stays away, memory is bounded
 * by what is told apart, not by requests: at `maxRows` rows a new (user, prefix, day) is counted under the user's prefix `*`.
 */
export class UsageRecorder {
  readonly #sink: Pick<UserStore, "addUsage">;
  readonly #flushMs: number;
  readonly #maxRows: number;
  readonly #batchRows: number;
  readonly #onError: (error: unknown) => void;
  readonly #now: () => number;
  #pending = new Map<string, Sums>();
  /** Rows that a flush under way has taken and not written yet. */
  #taken = 0;
  #batch: number;
  #failures = 0;
  #timer: NodeJS.Timeout | null = null;
  #flushing: Promise<void> | null = null;
  #closed = false;

  constructor({
    sink,
    flushMs = 200,
    maxRows = 100_000,
    batchRows = 500,
    onError = () => {},
    now = Date.now,
  }: UsageRecorderOptions) {
    this.#sink = sink;
    this.#flushMs = flushMs;
    this.#maxRows = maxRows;
    this.#batchRows = this.#batch = batchRows;
    this.#onError = onError;
    this.#now = now;
  }

  /** Rows that wait to be written, or are being written. */
  get pending(): number {
    return this.#pending.size + this.#taken;
  }

  record(usage: RequestUsage): void {
    this.#add({ ...usage, requests: 1, day: new Date(this.#now()).toISOString().slice(0, 10) });
    this.#schedule();
  }

  /** Writes what there is now; resolves when that has been tried once. Never rejects. */
  async flush(): Promise<void> {
    await this.#flushing;
    this.#flushing ??= this.#write().finally(() => (this.#flushing = null));
    await this.#flushing;
  }

  /** Forgets what has not been written of a removed user, and waits for what is being written. */
  async forget(user: string): Promise<void> {
    const drop = (): void => {
      for (const [key, row] of this.#pending) if (row.user === user) this.#pending.delete(key);
    };
    drop();
    await this.#flushing;
    // A batch that failed has come back.
    drop();
  }

  /** Writes what a user who is being removed has used. What could not be written must not be billed to a later user of the same id. */
  async settle(user: string): Promise<void> {
    await this.flush();
    await this.forget(user);
  }

  /** Writes the rest, for at most about `ms` milliseconds if the sink keeps failing; answers how many rows are lost. */
  async close(ms = 2000): Promise<number> {
    this.#closed = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    for (const until = performance.now() + ms; ; ) {
      await this.flush();
      if (this.#pending.size === 0 || performance.now() >= until) return this.#pending.size;
      await new Promise((resolve) => setTimeout(resolve, this.#flushMs));
    }
  }

  #schedule(): void {
    if (this.#timer !== null || this.#closed || this.#pending.size === 0) return;
    const delay = Math.min(this.#flushMs * 2 ** this.#failures, Math.max(MAX_BACKOFF_MS, this.#flushMs));
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.flush().then(() => this.#schedule());
    }, delay).unref();
  }

  /** All rows that are there when it begins, batch by batch, until one fails. */
  async #write(): Promise<void> {
    const rows = this.#pending;
    this.#pending = new Map();
    const left = [...rows.values()];
    this.#taken = left.length;
    while (left.length > 0) {
      const batch = left.splice(0, this.#batch);
      try {
        await this.#sink.addUsage(batch);
        this.#taken -= batch.length;
        this.#failures = 0;
        this.#batch = Math.min(this.#batchRows, 2 * this.#batch);
      } catch (error) {
        this.#failures++;
        this.#batch = Math.max(1, this.#batch >> 1);
        this.#taken = 0;
        // What failed goes behind the rest.
        for (const row of [...left, ...batch]) this.#add(row);
        this.#onError(error);
        return;
      }
    }
  }

  #add(row: UsageRow): void {
    let key = keyOf(row.user, row.prefix, row.day);
    let prefix = row.prefix;
    if (this.#pending.size >= this.#maxRows && !this.#pending.has(key)) {
      prefix = OTHER_PREFIXES;
      key = keyOf(row.user, prefix, row.day);
    }
    const sums = this.#pending.get(key);
    if (sums === undefined) {
      const { user, day, requests, prefixTokens, promptTokens, completionTokens, queueSeconds, runSeconds } = row;
      this.#pending.set(key, {
        user,
        prefix,
        day,
        requests,
        prefixTokens,
        promptTokens,
        completionTokens,
        queueSeconds,
        runSeconds,
      });
      return;
    }
    for (const sum of SUMS) sums[sum] += row[sum];
  }
}

const SUMS = ["requests", "prefixTokens", "promptTokens", "completionTokens", "queueSeconds", "runSeconds"] as const;
/** Users and days hold no newline. */
const keyOf = (user: string, prefix: string | null, day: string): string => `${user}\n${day}\n${prefix ?? ""}`;
