import type { Registry } from "prom-client";
import type { PrefixCacheStats, StepPhase } from "./engine-observer.ts";

/** Sums since the start. Whoever reads them twice knows what happened in between. Times in seconds. */
export interface Totals {
  /** Runs of the model, tokens fed to it, and time that it took. */
  readonly steps: Readonly<
    Record<StepPhase, { readonly runs: number; readonly tokens: number; readonly seconds: number }>
  >;
  /** Requests by the time from submission to their first token: `counts[i]` took at most `bounds[i]`, the last one longer than all. */
  readonly firstToken: {
    readonly bounds: number[];
    readonly counts: number[];
    readonly seconds: number;
  };
  readonly prefixCache: Pick<PrefixCacheStats, "hits" | "misses">;
  /** Generate requests that ended, by outcome. */
  readonly requests: Readonly<Record<string, number>>;
}

interface Value {
  readonly metricName?: string;
  readonly labels: Readonly<Record<string, string | number | undefined>>;
  readonly value: number;
}

/** Reads the totals out of prefixd's metrics. */
export async function totalsOf(registry: Registry, prefixCache: Totals["prefixCache"]): Promise<Totals> {
  const read = async (name: string): Promise<readonly Value[]> => (await registry.getSingleMetric(name)!.get()).values;
  const [seconds, tokens, firstToken, requests] = await Promise.all([
    read("prefixd_step_seconds"),
    read("prefixd_step_tokens_total"),
    read("prefixd_ttft_seconds"),
    read("prefixd_requests_total"),
  ]);
  const of = (values: readonly Value[], phase: StepPhase, name?: string): number =>
    values.find(({ labels, metricName }) => labels["phase"] === phase && metricName === name)?.value ?? 0;
  const step = (phase: StepPhase) => ({
    runs: of(seconds, phase, "prefixd_step_seconds_count"),
    tokens: of(tokens, phase),
    seconds: of(seconds, phase, "prefixd_step_seconds_sum"),
  });
  // Prometheus' buckets are cumulative, and the last one has no bound.
  const buckets = firstToken.filter(({ labels }) => labels["le"] !== undefined);
  return {
    steps: { prefill: step("prefill"), decode: step("decode"), fold: step("fold") },
    firstToken: {
      bounds: buckets.slice(0, -1).map(({ labels }) => Number(labels["le"])),
      counts: buckets.map(({ value }, i) => value - (buckets[i - 1]?.value ?? 0)),
      seconds: firstToken.find(({ metricName }) => metricName === "prefixd_ttft_seconds_sum")?.value ?? 0,
    },
    prefixCache: { hits: prefixCache.hits, misses: prefixCache.misses },
    requests: Object.fromEntries(
      requests.flatMap(({ labels, value }) => (value > 0 ? [[String(labels["outcome"]), value]] : [])),
    ),
  };
}
