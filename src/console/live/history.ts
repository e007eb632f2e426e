/** The last minute: what happened between two events, from the difference of their totals. */
import type { Live, Totals } from "./feed.ts";

/** Seconds. */
export const SPAN = 60;

/** One moment of the charts. null: nothing of the kind happened, a gap. */
export interface Moment {
  /** Seconds since the epoch. */
  readonly at: number;
  readonly stepMs: number | null;
  readonly firstTokenMs: number | null;
  readonly tokensPerSecond: number;
  /** Percent. */
  readonly cacheHits: number | null;
}

interface Sample {
  readonly at: number;
  readonly totals: Totals;
}

export class History {
  readonly #samples: Sample[];
  readonly moments: Moment[];

  constructor(samples: readonly Sample[] = [], moments: readonly Moment[] = []) {
    this.#samples = [...samples];
    this.moments = [...moments];
  }

  /** As it is now, whatever is added later. */
  copy(): History {
    return new History(this.#samples, this.moments);
  }

  add({ at, totals }: Live): void {
    const now = Date.parse(at) / 1000;
    const latest = this.#samples.at(-1);
    // A server that was started anew counts from 0 again.
    if (latest !== undefined && totals.steps.decode.runs < latest.totals.steps.decode.runs) this.#samples.length = 0;
    const second = this.#since(now - 1);
    if (second !== undefined && now > second.at)
      this.moments.push(momentOf(now, second, totals, this.#since(now - 10)!));
    this.#samples.push({ at: now, totals });
    while (this.#samples[0]!.at < now - SPAN - 1) this.#samples.shift();
    while (this.moments[0] !== undefined && this.moments[0].at < now - SPAN) this.moments.shift();
  }

  /** A time within which 99 of 100 first tokens of the last minute came, in milliseconds; null: there were none. */
  get slowFirstTokenMs(): number | null {
    const [from, to] = [this.#samples[0], this.#samples.at(-1)];
    if (from === undefined || to === undefined) return null;
    const counts = to.totals.first_token.counts.map((count, i) => count - from.totals.first_token.counts[i]!);
    const all = counts.reduce((sum, count) => sum + count, 0);
    let seen = 0;
    for (const [i, count] of counts.entries()) {
      seen += count;
      if (all > 0 && seen >= 0.99 * all) return 1000 * (to.totals.first_token.bounds[i] ?? Infinity);
    }
    return null;
  }

  /** Requests of the last minute that ended so. */
  outcomes(code: string): number {
    const of = (sample: Sample | undefined): number => sample?.totals.requests[code] ?? 0;
    return of(this.#samples.at(-1)) - of(this.#samples[0]);
  }

  /** The latest sample of that time or before; else the first one. */
  #since(at: number): Sample | undefined {
    return this.#samples.findLast((sample) => sample.at <= at) ?? this.#samples[0];
  }
}

function momentOf(now: number, second: Sample, totals: Totals, tenSeconds: Sample): Moment {
  const part = (of: number, by: number): number | null => (by > 0 ? of / by : null);
  const before = second.totals;
  const long = tenSeconds.totals;
  const first = (of: Totals): number => of.first_token.counts.reduce((sum, count) => sum + count, 0);
  const tokens = totals.steps.decode.tokens - before.steps.decode.tokens + first(totals) - first(before);
  const hits = totals.prefix_cache.hits - long.prefix_cache.hits;
  const misses = totals.prefix_cache.misses - long.prefix_cache.misses;
  const scaled = (value: number | null, by: number): number | null => (value === null ? null : value * by);
  return {
    at: now,
    stepMs: scaled(
      part(
        totals.steps.decode.seconds - before.steps.decode.seconds,
        totals.steps.decode.runs - before.steps.decode.runs,
      ),
      1000,
    ),
    firstTokenMs: scaled(
      part(totals.first_token.seconds - long.first_token.seconds, first(totals) - first(long)),
      1000,
    ),
    tokensPerSecond: tokens / (now - second.at),
    cacheHits: scaled(part(hits, hits + misses), 100),
  };
}
