import { counted } from "../../counted.ts";
import type { Counts, LoadResult, Quantiles } from "../result.ts";

const ms = (value: number): string => (value >= 100 ? value.toFixed(0) : value.toFixed(1)).padStart(8);

/** Aligns rows in columns: the first to the left, the others to the right. */
export function columns(rows: readonly (readonly string[])[]): string {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? "").length)));
  return rows
    .map((row) =>
      row
        .map((cell, column) => (column === 0 ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!)))
        .join("  "),
    )
    .join("\n");
}

/** The result for a terminal: wrong answers in full, then figures, then every criterion. */
export function resultText(result: LoadResult): string {
  const { totals, verification, client, registered, scenario } = result;
  const quantiles = (name: string, { count, p50, p90, p99, p999, max }: Quantiles): string[] => [
    name,
    String(count),
    ms(p50),
    ms(p90),
    ms(p99),
    ms(p999),
    ms(max),
  ];
  const groups = result.groups.map((group) => [
    group.name,
    String(group.requests),
    share(group.goodput),
    ms(group.ttft.p50),
    ms(group.ttft.p99),
    String(group.tokens),
    group.jain.toFixed(3),
  ]);
  const sections = [
    ...verification.examples.map(
      (wrong, index) =>
        `WRONG ANSWER ${index + 1} of ${verification.wrong}: ${wrong.what}\n${JSON.stringify(wrong, null, 2)}`,
    ),
    `${scenario.name}: ${result.seconds.toFixed(1)} s against ${result.urls.join(", ")}; ${counted(registered.prefixes, "prefix")} (${registered.kind}) registered in ${registered.seconds.toFixed(1)} s`,
    ...(result.capacity === null
      ? []
      : [
          `capacity: ${result.capacity.requests_per_s.toFixed(1)} requests/s, ${result.capacity.tokens_per_s.toFixed(0)} tokens/s with ${counted(result.capacity.clients, "client")}`,
        ]),
    columns([
      ["milliseconds", "count", "p50", "p90", "p99", "p99.9", "max"],
      quantiles("TTFT", result.ttft),
      quantiles("inter-token", result.inter_token),
      quantiles("end to end", result.end_to_end),
    ]),
    columns([["group", "requests", "goodput", "TTFT p50", "TTFT p99", "tokens", "Jain"], ...groups]),
    `${totals.requests_per_s.toFixed(1)} requests/s, ${totals.tokens_per_s.toFixed(0)} tokens/s, goodput ${share(totals.goodput)} (${totals.goodput_per_s.toFixed(1)} requests/s within TTFT ${scenario.slo.ttft_ms} ms, ${scenario.slo.inter_token_ms} ms a token)`,
    `ok ${totals.ok}; errors: ${codes(totals.errors)}${result.refused.count > 0 ? ` (429 after ${ms(result.refused.p50).trim()} ms, p99 ${ms(result.refused.p99).trim()} ms)` : ""}; provoked by the run: ${codes(totals.provoked)}`,
    ...result.servers.map(serverText),
    ...(Object.keys(result.churn).length > 0 ? [`changes: ${codes(result.churn)}`] : []),
    `verified: ${counted(verification.cases, "case")}, ${counted(verification.compared, "answer")} compared (${counted(verification.tokens, "token")}), ${counted(verification.digests, "digest")}; wrong: ${verification.wrong}`,
    `client: lag p50 ${client.lag_p50.toFixed(1)} ms, p99 ${client.lag_p99.toFixed(1)} ms, max ${client.lag_max.toFixed(1)} ms; sent late p99 ${client.send_delay_p99.toFixed(1)} ms; at most ${client.most_in_flight} at once`,
    ...result.notes,
    ...result.warnings.map(({ name, text }) => `WARNING ${name}: ${text}.`),
    columns(
      result.criteria.map(({ passed, name, value, limit }) => [
        `${passed ? "pass" : "FAIL"}  ${name}`,
        value === null ? "not measured" : number(value),
        limit,
      ]),
    ),
    result.passed ? "PASSED" : "FAILED",
  ];
  return `${sections.join("\n\n")}\n`;
}

function serverText({
  url,
  problem,
  samples,
  queue,
  memory_slope_mib_per_min: slope,
}: LoadResult["servers"][number]): string {
  if (problem !== null) return `${url}: no metrics (${problem})`;
  const range = (field: "rss_mib" | "in_use_mib"): string =>
    `${samples[0]?.[field].toFixed(0)} to ${samples.at(-1)?.[field].toFixed(0)} MiB`;
  const memory = `RSS ${range("rss_mib")}, in use ${range("in_use_mib")}${slope === null ? "" : `, ${slope.toFixed(2)} MiB/min in the second half`}`;
  if (queue === null) return `${url}: ${memory}`;
  const upTo = (value: number | null): string => (value === null ? "beyond the buckets" : `<= ${number(value)}`);
  return `${url}: queue time mean ${queue.mean.toFixed(1)} ms, p50 ${upTo(queue.p50)}, p99 ${upTo(queue.p99)}; ${memory}`;
}

export const share = (value: number): string => `${(value * 100).toFixed(1)} %`;
export const number = (value: number): string => (Number.isInteger(value) ? String(value) : value.toPrecision(4));
export const codes = (counts: Counts["errors"]): string =>
  Object.entries(counts)
    .map(([code, count]) => `${code} ${count}`)
    .join(", ") || "none";
