import type { UsageDays, UsageRange } from "./store.ts";
import type { UsageRow, UsageSums } from "./types.ts";

/** The counters of a row as integers, in the order used by the stores. Times are in microseconds, so sums are exact. */
export type UsageCounts = readonly [
  requests: number,
  prefixTokens: number,
  promptTokens: number,
  completionTokens: number,
  queueMicros: number,
  runMicros: number,
];

const MICROS = 1_000_000;

export function toCounts(row: UsageSums): UsageCounts {
  return [
    row.requests,
    row.prefixTokens,
    row.promptTokens,
    row.completionTokens,
    Math.round(row.queueSeconds * MICROS),
    Math.round(row.runSeconds * MICROS),
  ];
}

export function toUsageSums(counts: readonly number[]): UsageSums {
  const [requests = 0, prefixTokens = 0, promptTokens = 0, completionTokens = 0, queue = 0, run = 0] = counts;
  return {
    requests,
    prefixTokens,
    promptTokens,
    completionTokens,
    queueSeconds: queue / MICROS,
    runSeconds: run / MICROS,
  };
}

/** Adds counters, in place. */
export function addCounts(sums: number[], counts: readonly number[]): void {
  counts.forEach((count, i) => (sums[i] = (sums[i] ?? 0) + count));
}

/**
 * Names a row within its user: `day/` or `day/=prefix`. Stores sort rows by name, which orders them by day with the
 * bare base model first.
 */
export function usageRowName({ day, prefix }: Pick<UsageRow, "day" | "prefix">): string {
  return `${day}/${prefix === null ? "" : `=${prefix}`}`;
}

/** Inverse of `usageRowName`. */
export function toUsageRow(user: string, name: string, counts: readonly number[]): UsageRow {
  const slash = name.indexOf("/");
  const prefix = slash + 1 === name.length ? null : name.slice(slash + 2);
  return { user, prefix, day: name.slice(0, slash), ...toUsageSums(counts) };
}

/** The names in a range: from `start` (included only if `inclusive`) up to, but not including, `end`. */
export function usageRowNames({ from = "", after, ...days }: UsageRange): {
  start: string;
  inclusive: boolean;
  end: string;
} {
  const inclusive = after === undefined || after < from;
  return { start: inclusive ? from : after, inclusive, end: endOfDays(days) };
}

/** Exclusive upper bound for row names and for days. "0" is the character after "/". */
export function endOfDays({ to = "9999" }: UsageDays): string {
  return `${to}0`;
}

/** Compares by code unit, like the stores. */
export function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
