/** A run's result, as `--json` writes it. Times are in milliseconds unless the name says otherwise. */
import type { ServedModel } from "./model.ts";
import type { Scenario } from "./scenario.ts";

export const FORMAT = "prefixd-load/1";

export interface Quantiles {
  readonly count: number;
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
  /** Points of the cumulative distribution: milliseconds, share at or below. */
  readonly cdf: readonly (readonly [number, number])[];
}

export interface Latencies {
  /** Streams only: from the intended start to the first token. */
  readonly ttft: Quantiles;
  /** Streams only: between two events with tokens. */
  readonly inter_token: Quantiles;
  /** From the intended start to the end. */
  readonly end_to_end: Quantiles;
}

export interface Counts {
  readonly requests: number;
  readonly ok: number;
  /** By code; errors that the run provoked itself are in `provoked` instead. */
  readonly errors: Readonly<Record<string, number>>;
  readonly provoked: Readonly<Record<string, number>>;
  readonly tokens: number;
  /** Requests within the SLO, out of all that should have been answered. */
  readonly within_slo: number;
  readonly goodput: number;
}

export interface GroupResult extends Counts, Latencies {
  readonly name: string;
  /** Jain's index of tokens by weight over the group's users; 1 if all are equal. */
  readonly jain: number;
}

export interface UserResult {
  readonly user: string;
  readonly group: string;
  readonly weight: number;
  readonly requests: number;
  readonly ok: number;
  readonly tokens: number;
  readonly goodput: number;
  readonly ttft_p50: number;
  readonly ttft_p99: number;
}

/** One bucket of time; rates are per second. */
export interface Bucket {
  readonly at_s: number;
  readonly offered: number;
  readonly completed: number;
  readonly failed: number;
  readonly tokens: number;
  readonly in_flight: number;
  readonly ttft_p50: number | null;
  readonly ttft_p99: number | null;
  readonly end_to_end_p99: number | null;
}

export interface ServerSample {
  readonly at_s: number;
  readonly rss_mib: number;
  /**
   * RSS without mapped files, without the free part of V8's heap and without its young generation, as far as the server
   * tells them apart.
   */
  readonly in_use_mib: number;
  readonly queue_depth: number;
  readonly running: number;
}

/** What an idle server holds open. */
export interface AtRest {
  readonly open_files: number;
  readonly active_resources: number;
  readonly event_listeners: number;
}

/** What a closed loop of `clients` clients got from the servers. */
export interface Capacity {
  readonly requests_per_s: number;
  readonly tokens_per_s: number;
  readonly clients: number;
}

export interface ServerResult {
  readonly url: string;
  /** Why there are no metrics; null if there are. */
  readonly problem: string | null;
  readonly samples: readonly ServerSample[];
  /**
   * From the histogram `prefixd_queue_seconds`; quantiles are upper bounds of its buckets. Null if nothing was queued
   * or there are no metrics.
   */
  readonly queue: {
    readonly count: number;
    readonly mean: number;
    readonly p50: number | null;
    readonly p99: number | null;
  } | null;
  /**
   * Least-squares slope of memory in use over the second half of the run; null if that is shorter than half a minute or
   * there are no metrics.
   */
  readonly memory_slope_mib_per_min: number | null;
  /** Before and after the load; null if not measured. */
  readonly at_rest: { readonly before: AtRest | null; readonly after: AtRest | null };
}

export interface Verification {
  readonly cases: number;
  readonly compared: number;
  readonly tokens: number;
  readonly digests: number;
  readonly wrong: number;
  /** The first ones in full. */
  readonly examples: readonly WrongAnswer[];
}

/** An answer that differs from the run alone, or comes from another prefix than requested. */
export interface WrongAnswer {
  readonly what: string;
  readonly at_s: number;
  readonly url: string;
  readonly request: object;
  readonly expected: unknown;
  readonly got: unknown;
}

/** One criterion's outcome. A null `value` could not be measured, which fails. */
export interface Judgement {
  readonly name: string;
  readonly limit: string;
  readonly value: number | null;
  readonly passed: boolean;
}

/** How streams' events arrived: `in_lumps` of them several at once after a pause, with median `wait_p50`. */
export interface StreamLumps {
  readonly events: number;
  readonly in_lumps: number;
  readonly wait_p50: number;
}

export interface LoadResult extends Latencies {
  readonly format: typeof FORMAT;
  readonly scenario: Scenario;
  readonly urls: readonly string[];
  readonly started_at: string;
  /** Duration of the load itself, until the last answer. */
  readonly seconds: number;
  readonly notes: readonly string[];
  /** Reasons why the figures are not the server's. */
  readonly warnings: readonly { readonly name: string; readonly text: string }[];
  readonly client: {
    readonly node: string;
    readonly cpus: number;
    readonly lag_p50: number;
    readonly lag_p99: number;
    readonly lag_max: number;
    readonly send_delay_p99: number;
    readonly most_in_flight: number;
  };
  /** As the first server reports it; null if it does not. */
  readonly model: ServedModel | null;
  /** What the rates were scaled by; null if they are the scenario's own. */
  readonly capacity: Capacity | null;
  readonly registered: { readonly prefixes: number; readonly kind: string; readonly seconds: number };
  readonly totals: Counts & {
    readonly requests_per_s: number;
    readonly tokens_per_s: number;
    readonly goodput_per_s: number;
  };
  /** From sending to a 429, over all users. */
  readonly refused: Quantiles;
  /** Seconds from the start of the last step until requests met the SLO; null if they never did or it is not judged. */
  readonly recovery_s: number | null;
  readonly stream_lumps: StreamLumps;
  readonly groups: readonly GroupResult[];
  readonly users: readonly UserResult[];
  readonly series: readonly Bucket[];
  readonly servers: readonly ServerResult[];
  readonly churn: Readonly<Record<string, number>>;
  readonly verification: Verification;
  readonly criteria: readonly Judgement[];
  readonly passed: boolean;
}
