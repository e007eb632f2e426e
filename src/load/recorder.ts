import { totalSeconds } from "./arrivals.ts";
import type { CallRecord } from "./client.ts";
import { Milliseconds } from "./histogram.ts";
import { Lumps } from "./lumps.ts";
import type { LoadUser } from "./population.ts";
import type { Bucket, Counts, GroupResult, Latencies, UserResult } from "./result.ts";
import type { Scenario } from "./scenario.ts";

const BUCKETS = 200;
/** This many consecutive requests within the SLO count as recovery. */
const RECOVERED = 20;
const REFUSALS = ["queue_full", "user_queue_full", "token_rate_exceeded"];
/** Shorter buckets hold too few requests to be meaningful. */
const LEAST_BUCKET_S = 0.25;

/** How to count a request, in addition to its record. */
export interface Outcome {
  readonly user: LoadUser;
  /** The run itself provoked this error: a disconnect, a poisoned prefix, a removal. */
  readonly provoked: boolean;
  /** Its times are the client's doing: a slow reader. */
  readonly slow: boolean;
}

class Tally {
  requests = 0;
  ok = 0;
  tokens = 0;
  expected = 0;
  withinSlo = 0;
  readonly errors: Record<string, number> = {};
  readonly provoked: Record<string, number> = {};
  readonly ttft = new Milliseconds();
  readonly interToken = new Milliseconds();
  readonly endToEnd = new Milliseconds();

  counts(): Counts {
    const { requests, ok, errors, provoked, tokens } = this;
    return {
      requests,
      ok,
      errors,
      provoked,
      tokens,
      within_slo: this.withinSlo,
      goodput: this.expected === 0 ? 0 : this.withinSlo / this.expected,
    };
  }

  latencies(): Latencies {
    return {
      ttft: this.ttft.quantiles(),
      inter_token: this.interToken.quantiles(),
      end_to_end: this.endToEnd.quantiles(),
    };
  }
}

interface OpenBucket {
  offered: number;
  completed: number;
  failed: number;
  tokens: number;
  inFlight: number;
  readonly ttft: Milliseconds;
  readonly endToEnd: Milliseconds;
}

/** Per user, only what a table of thousands of users needs. */
interface UserTally {
  readonly user: LoadUser;
  requests: number;
  ok: number;
  expected: number;
  withinSlo: number;
  tokens: number;
  readonly ttft: Milliseconds;
}

/** Histograms, counters and the time series of a run. Latencies count from the intended start. */
export class Recorder {
  readonly all = new Tally();
  readonly sendDelay = new Milliseconds();
  readonly lumps = new Lumps();
  /** From sending to a 429. */
  readonly refused = new Milliseconds();
  /**
   * Requests intended after the start of the last step: when, and whether within the SLO. Kept only if recovery is
   * judged.
   */
  readonly #afterwards: { readonly at: number; readonly within: boolean }[] = [];
  readonly #lastStepAt: number;
  readonly #groups: Map<string, Tally>;
  readonly #users: Map<string, UserTally>;
  readonly #buckets = new Map<number, OpenBucket>();
  readonly #slo: Scenario["slo"];
  readonly #width: number;
  readonly #startedAt: number;
  #inFlight = 0;
  #mostInFlight = 0;

  /**
   * @param seconds intended duration of the load
   * @param startedAt by `performance.now()`
   */
  constructor(scenario: Scenario, users: readonly LoadUser[], seconds: number, startedAt: number) {
    this.#groups = new Map(scenario.groups.map(({ name }) => [name, new Tally()]));
    this.#users = new Map(
      users.map((user) => [
        user.label,
        { user, requests: 0, ok: 0, expected: 0, withinSlo: 0, tokens: 0, ttft: new Milliseconds(2) },
      ]),
    );
    this.#slo = scenario.slo;
    this.#width = Math.max(LEAST_BUCKET_S, seconds / BUCKETS);
    this.#startedAt = startedAt;
    this.#lastStepAt = scenario.pass.recovery_s === undefined ? Infinity : startedAt + lastStepOf(scenario) * 1000;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get mostInFlight(): number {
    return this.#mostInFlight;
  }

  offered(intendedAt: number): void {
    this.#bucket(intendedAt).offered++;
    this.#mostInFlight = Math.max(this.#mostInFlight, ++this.#inFlight);
  }

  tokens(user: LoadUser, count: number, at: number): void {
    this.#bucket(at).tokens += count;
    this.all.tokens += count;
    this.#groups.get(user.group)!.tokens += count;
    this.#users.get(user.label)!.tokens += count;
  }

  ended(record: CallRecord, { user, provoked, slow }: Outcome): void {
    const tallies = [this.all, this.#groups.get(user.group)!];
    const own = this.#users.get(user.label)!;
    const bucket = this.#bucket(record.endedAt);
    const ok = record.code === "ok";
    this.#inFlight--;
    bucket.inFlight = this.#inFlight;
    this.sendDelay.record(record.sentAt - record.intendedAt);
    own.requests++;
    for (const tally of tallies) {
      tally.requests++;
      if (!ok) count(provoked ? tally.provoked : tally.errors, record.code);
    }
    if (!ok && !provoked) bucket.failed++;
    if (ok) {
      bucket.completed++;
      own.ok++;
      for (const tally of tallies) tally.ok++;
    }
    if (REFUSALS.includes(record.code)) this.refused.record(record.endedAt - record.sentAt);
    if (provoked || slow) return;
    const within = ok && this.#isWithinSlo(record);
    if (record.intendedAt >= this.#lastStepAt) this.#afterwards.push({ at: record.intendedAt, within });
    for (const tally of [...tallies, own]) {
      tally.expected++;
      if (within) tally.withinSlo++;
    }
    if (ok) this.#times(record, tallies, own, bucket);
  }

  #times(record: CallRecord, tallies: readonly Tally[], own: UserTally, bucket: OpenBucket): void {
    const endToEnd = record.endedAt - record.intendedAt;
    this.lumps.record(record);
    bucket.endToEnd.record(endToEnd);
    for (const tally of tallies) {
      tally.endToEnd.record(endToEnd);
      for (const gap of record.gaps) tally.interToken.record(gap);
    }
    if (record.firstTokenAt === null) return;
    const ttft = record.firstTokenAt - record.intendedAt;
    for (const tally of tallies) tally.ttft.record(ttft);
    own.ttft.record(ttft);
    this.#bucket(record.firstTokenAt).ttft.record(ttft);
  }

  /**
   * A stream meets the SLO if its first token is in time, and the others are on average. A response without a stream
   * may take as long as a stream that just meets it.
   */
  #isWithinSlo({ firstTokenAt, intendedAt, endedAt, tokens }: CallRecord): boolean {
    const { ttft_ms, inter_token_ms } = this.#slo;
    if (firstTokenAt === null) return endedAt - intendedAt <= ttft_ms + inter_token_ms * (tokens - 1);
    return firstTokenAt - intendedAt <= ttft_ms && endedAt - firstTokenAt <= inter_token_ms * Math.max(1, tokens - 1);
  }

  #bucket(at: number): OpenBucket {
    const index = Math.max(0, Math.floor((at - this.#startedAt) / 1000 / this.#width));
    let bucket = this.#buckets.get(index);
    if (bucket === undefined) {
      bucket = {
        offered: 0,
        completed: 0,
        failed: 0,
        tokens: 0,
        inFlight: this.#inFlight,
        ttft: new Milliseconds(2),
        endToEnd: new Milliseconds(2),
      };
      this.#buckets.set(index, bucket);
    }
    return bucket;
  }

  /**
   * Seconds from the start of the last step to the first of RECOVERED consecutive requests within the SLO; null if
   * there were none.
   */
  recoveryS(): number | null {
    const requests = this.#afterwards.sort((a, b) => a.at - b.at);
    let row = 0;
    for (const [index, { within }] of requests.entries()) {
      row = within ? row + 1 : 0;
      if (row === RECOVERED) return (requests[index - RECOVERED + 1]!.at - this.#lastStepAt) / 1000;
    }
    return null;
  }

  series(): Bucket[] {
    const last = Math.max(-1, ...this.#buckets.keys());
    let inFlight = 0;
    return Array.from({ length: last + 1 }, (_, index) => {
      const bucket = this.#buckets.get(index);
      inFlight = bucket?.inFlight ?? inFlight;
      const rate = (value: number | undefined): number => (value ?? 0) / this.#width;
      const quantile = (times: Milliseconds | undefined, percentile: number): number | null =>
        times !== undefined && times.count > 0 ? times.at(percentile) : null;
      return {
        at_s: index * this.#width,
        offered: rate(bucket?.offered),
        completed: rate(bucket?.completed),
        failed: rate(bucket?.failed),
        tokens: rate(bucket?.tokens),
        in_flight: inFlight,
        ttft_p50: quantile(bucket?.ttft, 50),
        ttft_p99: quantile(bucket?.ttft, 99),
        end_to_end_p99: quantile(bucket?.endToEnd, 99),
      };
    });
  }

  groups(): GroupResult[] {
    return [...this.#groups].map(([name, tally]) => {
      const shares = [...this.#users.values()]
        .filter(({ user }) => user.group === name)
        .map(({ tokens, user }) => tokens / user.weight);
      return { name, ...tally.counts(), ...tally.latencies(), jain: jainIndex(shares) };
    });
  }

  users(): UserResult[] {
    return [...this.#users.values()].map(({ user, requests, ok, tokens, expected, withinSlo, ttft }) => ({
      user: user.label,
      group: user.group,
      weight: user.weight,
      requests,
      ok,
      tokens,
      goodput: expected === 0 ? 0 : withinSlo / expected,
      ttft_p50: ttft.at(50),
      ttft_p99: ttft.at(99),
    }));
  }
}

/** When the last step of any open loop starts, in seconds. */
function lastStepOf({ groups }: Scenario): number {
  return Math.max(
    0,
    ...groups.map(({ arrivals }) => (arrivals.process === "poisson" ? totalSeconds(arrivals.steps.slice(0, -1)) : 0)),
  );
}

/**
 * Jain's index (sum x)^2 / (n sum x^2) (Jain, Chiu and Hawe 1984): 1 if all shares are equal, 1 / n if one has
 * everything.
 */
export function jainIndex(shares: readonly number[]): number {
  const sum = shares.reduce((a, b) => a + b, 0);
  const squares = shares.reduce((a, b) => a + b * b, 0);
  return squares === 0 ? 1 : (sum * sum) / (shares.length * squares);
}

function count(counts: Record<string, number>, code: string): void {
  counts[code] = (counts[code] ?? 0) + 1;
}
