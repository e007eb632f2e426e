import type { UsageRow } from "./types.ts";

/** The counters of a row as whole numbers, in the order in which stores keep them; times are microseconds, so that sums are exact. */
export type UsageCounts = readonly [
  requests: number,
  prefixTokens: number,
  promptTokens: number,
  completionTokens: number,
  queueMicros: number,
  runMicros: number,
];

const MICROS = 1_000_000;

export function toCounts(row: UsageRow): UsageCounts {
  return [
    row.requests,
    row.prefixTokens,
    row.promptTokens,
    row.completionTokens,
    Math.round(row.queueSeconds * MICROS),
    Math.round(row.runSeconds * MICROS),
  ];
}

export function toUsageRow(user: string, prefix: string | null, day: string, counts: readonly number[]): UsageRow {
  const [requests = 0, prefixTokens = 0, promptTokens = 0, completionTokens = 0, queue = 0, run = 0] = counts;
  return {
    user,
    prefix,
    day,
    requests,
    prefixTokens,
    promptTokens,
    completionTokens,
    queueSeconds: queue / MICROS,
    runSeconds: run / MICROS,
  };
}

export function compareUsage(a: UsageRow, b: UsageRow): number {
  return compare(a.day, b.day) || compare(a.prefix ?? "", b.prefix ?? "");
}

/** By code unit, as the stores sort. */
export function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
