import type { Criteria, CommonCriteria } from "./criteria-schema.ts";
import type { AtRest, Counts, GroupResult, Judgement, Latencies, LoadResult } from "./result.ts";

type Unjudged = Omit<LoadResult, "criteria" | "passed">;

/** Judges every criterion, wrong answers first. */
export function judge(criteria: Criteria, result: Unjudged): Judgement[] {
  const out: Judgement[] = [
    atMost("wrong answers", result.verification.wrong, 0),
    ...judgeCommon(criteria, { ...result, ...result.totals }, ""),
  ];
  if (criteria.jain !== undefined)
    out.push(atLeast("jain", lowest(result.groups.map(({ jain }) => jain)), criteria.jain));
  if (criteria.tokens_per_s !== undefined)
    out.push(atLeast("tokens per second", result.totals.tokens_per_s, criteria.tokens_per_s));
  if (criteria.min_compared !== undefined)
    out.push(atLeast("answers compared", result.verification.compared, criteria.min_compared));
  if (criteria.refused_p99_ms !== undefined)
    out.push(atMost("refusal p99, ms", result.refused.count > 0 ? result.refused.p99 : 0, criteria.refused_p99_ms));
  if (criteria.recovery_s !== undefined) out.push(atMost("recovery, s", result.recovery_s, criteria.recovery_s));
  if (criteria.memory_slope_mib_per_min !== undefined)
    out.push(atMost("memory slope, MiB per minute", steepest(result), criteria.memory_slope_mib_per_min));
  if (criteria.left_over !== undefined)
    for (const [name, field] of LEFT_OVER)
      out.push(atMost(`${name} left over`, leftOver(result, field), criteria.left_over));
  if (criteria.client_lag_p99_ms !== undefined)
    out.push(atMost("client lag p99, ms", result.client.lag_p99, criteria.client_lag_p99_ms));
  for (const [name, own] of Object.entries(criteria.groups ?? {})) {
    const group = result.groups.find((one) => one.name === name);
    if (group === undefined) continue;
    out.push(...judgeCommon(own, group, `${name}: `));
    if (own.jain !== undefined) out.push(atLeast(`${name}: jain`, group.jain, own.jain));
  }
  return out;
}

const LEFT_OVER: readonly (readonly [string, keyof AtRest])[] = [
  ["open files", "open_files"],
  ["active resources", "active_resources"],
  ["event listeners", "event_listeners"],
];

function judgeCommon(criteria: CommonCriteria, result: Counts & Latencies, prefix: string): Judgement[] {
  const out: Judgement[] = [];
  const p99 = (name: string, latencies: GroupResult["ttft"], limit: number | undefined): void => {
    if (limit !== undefined)
      out.push(atMost(`${prefix}${name} p99, ms`, latencies.count > 0 ? latencies.p99 : null, limit));
  };
  out.push(...errorRates(criteria.error_rate ?? {}, result, prefix));
  p99("TTFT", result.ttft, criteria.ttft_p99_ms);
  p99("inter-token", result.inter_token, criteria.inter_token_p99_ms);
  p99("end to end", result.end_to_end, criteria.end_to_end_p99_ms);
  if (criteria.goodput !== undefined)
    out.push(atLeast(`${prefix}goodput`, result.requests > 0 ? result.goodput : null, criteria.goodput));
  return out;
}

function errorRates(
  limits: Readonly<Record<string, number>>,
  { requests, errors }: Counts,
  prefix: string,
): Judgement[] {
  return Object.entries(limits).map(([code, limit]) => {
    const failed =
      code === "*"
        ? sum(
            Object.entries(errors)
              .filter(([other]) => !Object.hasOwn(limits, other))
              .map(([, count]) => count),
          )
        : (errors[code] ?? 0);
    return atMost(
      `${prefix}error rate ${code === "*" ? "(other codes)" : code}`,
      requests > 0 ? failed / requests : null,
      limit,
    );
  });
}

const atMost = (name: string, value: number | null, limit: number): Judgement => ({
  name,
  limit: `<= ${limit}`,
  value,
  passed: value !== null && value <= limit,
});
const atLeast = (name: string, value: number | null, limit: number): Judgement => ({
  name,
  limit: `>= ${limit}`,
  value,
  passed: value !== null && value >= limit,
});
const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
const lowest = (values: readonly number[]): number | null => (values.length > 0 ? Math.min(...values) : null);

/** The largest of all servers; null if any was not measured. */
function leftOver({ servers }: Unjudged, field: keyof AtRest): number | null {
  const grown = servers.map(({ at_rest: { before, after } }) =>
    before === null || after === null ? null : after[field] - before[field],
  );
  return grown.some((value) => value === null) || grown.length === 0 ? null : Math.max(...grown.map(Number));
}

/** The steepest of all servers; null if any was not measured. */
function steepest({ servers }: Unjudged): number | null {
  const slopes = servers.map((server) => server.memory_slope_mib_per_min);
  return slopes.some((slope) => slope === null) || slopes.length === 0 ? null : Math.max(...slopes.map(Number));
}
