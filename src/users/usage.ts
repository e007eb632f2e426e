/**
 * Adds up usage per (user, prefix, UTC day) and writes it in batches. A request costs one map look-up, and the store
 * gets one write per changed row, regardless of the number of requests.
 */
import type { UserStore } from "./store.ts";
import type { UsageRow } from "./types.ts";

/** What a request used, or a registration, which is no request. */
export interface RequestUsage {
  readonly user: string;
  /** null: the bare base model. */
  readonly prefix: string | null;
  readonly requests: 0 | 1;
  readonly prefixTokens: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** From submission until the request started running, or until its end if it never ran. */
  readonly queueSeconds: number;
  readonly runSeconds: number;
}

export interface UsageRecorderOptions {
  readonly sink: Pick<UserStore, "addUsage">;
  readonly flushMs?: number;
  /** From this many rows in memory, new prefixes are counted together. */
  readonly maxRows?: number;
  /** Rows per call of the sink. */
  readonly batchRows?: number;
  /** Called for every failed flush. */
  readonly onError?: (error: unknown) => void;
  /** Milliseconds since the epoch. */
  readonly now?: () => number;
}

type Sums = { -readonly [K in keyof UsageRow]: UsageRow[K] };

/** Prefix name for rows beyond `maxRows`; no real prefix can have this name. */
export const OTHER_PREFIXES = "*";
const MAX_BACKOFF_MS = 10_000;

/**
 * A batch leaves the pending rows only while the sink writes it, and returns to them if the sink fails. Nothing is
 * lost or counted twice as long as a failed `addUsage` has added nothing. Failures are retried after 2, 4, ... times
 * `flushMs` (at most 10 s) in smaller batches, so that one unwritable row does not block the others. During an outage
 * of the store, memory grows with distinct rows, not with requests; from `maxRows` rows on, a new (user, prefix, day)
 * is counted under the user's prefix `*`.
 */
export class UsageRecorder {
  readonly #sink: Pick<UserStore, "addUsage">;
  readonly #flushMs: number;
  readonly #maxRows: number;
  readonly #batchRows: number;
  readonly #onError: (error: unknown) => void;
  readonly #now: () => number;
  #pending = new Map<string, Sums>();
  /** Rows taken by the flush in progress and not yet written. */
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

  /** Rows not yet written, including those being written. */
  get pending(): number {
    return this.#pending.size + this.#taken;
  }

  record(usage: RequestUsage): void {
    this.#add({ ...usage, day: new Date(this.#now()).toISOString().slice(0, 10) });
    this.#schedule();
  }

  /** Tries once to write all pending rows. Never rejects. */
  async flush(): Promise<void> {
    await this.#flushing;
    this.#flushing ??= this.#write().finally(() => (this.#flushing = null));
    await this.#flushing;
  }

  /** Drops the unwritten rows of a removed user and waits for the flush in progress. */
  async forget(user: string): Promise<void> {
    const drop = (): void => {
      for (const [key, row] of this.#pending) if (row.user === user) this.#pending.delete(key);
    };
    drop();
    await this.#flushing;
    // A failed flush has put its rows back.
    drop();
  }

  /**
   * Writes the usage of a user being removed. Drops what could not be written, so that a later user of the same id is
   * not billed for it.
   */
  async settle(user: string): Promise<void> {
    await this.flush();
    await this.forget(user);
  }

  /** Writes the remaining rows, retrying failures for about `ms` milliseconds. Returns the number of rows lost. */
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

  /** Writes the rows pending at the start, batch by batch, until one batch fails. */
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
        // Put the failed batch behind the other rows.
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
/** Newline is a safe separator: user ids and days contain none. */
const keyOf = (user: string, prefix: string | null, day: string): string => `${user}\n${day}\n${prefix ?? ""}`;
