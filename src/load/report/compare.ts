import { readFileSync } from "node:fs";
import Type from "typebox";
import { Check } from "typebox/value";
import { jsonTrouble } from "../../file-trouble.ts";
import { escapeMarkup as escape } from "../../reporting/escape-markup.ts";
import { FORMAT, type LoadResult } from "../result.ts";
import { ScenarioError } from "../scenario.ts";
import { distributionPlot, figure, NAMES, overTime, page, table } from "./html.ts";
import { columns, number } from "./text.ts";

const Marked = Type.Object({ format: Type.Literal(FORMAT) });

/** Reads a file written by `--json`. Throws ScenarioError. */
export function readResult(file: string): LoadResult {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (error) {
    throw new ScenarioError(`${file}: ${jsonTrouble(error)}`);
  }
  if (!Check(Marked, value)) throw new ScenarioError(`${file}: not a result of prefixd load (format ${FORMAT})`);
  return value as LoadResult;
}

/** One figure of two runs. `better` says which direction is. */
export interface Difference {
  readonly name: string;
  readonly a: number;
  readonly b: number;
  readonly better: "more" | "less";
}

export function compare(a: LoadResult, b: LoadResult): Difference[] {
  const of = (name: string, better: Difference["better"], value: (result: LoadResult) => number): Difference => ({
    name,
    a: value(a),
    b: value(b),
    better,
  });
  const failed = ({ totals }: LoadResult): number =>
    Object.values(totals.errors).reduce((sum, count) => sum + count, 0) / Math.max(1, totals.requests);
  return [
    of("requests per second", "more", ({ totals }) => totals.requests_per_s),
    of("tokens per second", "more", ({ totals }) => totals.tokens_per_s),
    of("goodput", "more", ({ totals }) => totals.goodput),
    of("goodput, requests per second", "more", ({ totals }) => totals.goodput_per_s),
    of("failed share", "less", failed),
    of("wrong answers", "less", ({ verification }) => verification.wrong),
    ...(["ttft", "inter_token", "end_to_end"] as const).flatMap((metric) =>
      (["p50", "p90", "p99", "max"] as const).map((quantile) =>
        of(`${NAMES[metric]} ${quantile}, ms`, "less", (result) => result[metric][quantile]),
      ),
    ),
    of("client lag p99, ms", "less", ({ client }) => client.lag_p99),
  ];
}

function change({ a, b, better }: Difference): { text: string; worse: boolean } {
  if (a === b) return { text: "same", worse: false };
  const text = a === 0 ? "new" : `${b > a ? "+" : ""}${(((b - a) / a) * 100).toFixed(1)} %`;
  return { text, worse: better === "more" ? b < a : b > a };
}

export function compareText(differences: readonly Difference[], names: readonly [string, string]): string {
  return `${columns([["", ...names, "change"], ...differences.map((one) => [one.name, number(one.a), number(one.b), `${change(one).text}${change(one).worse ? " (worse)" : ""}`])])}\n`;
}

export function compareHtml(a: LoadResult, b: LoadResult, names: readonly [string, string]): string {
  const rows = compare(a, b).map((one) => [
    escape(one.name),
    number(one.a),
    number(one.b),
    `<span class="${change(one).worse ? "fail" : ""}">${change(one).text}</span>`,
  ]);
  const plots = [
    ...(["ttft", "inter_token", "end_to_end"] as const).map((metric) =>
      distributionPlot(
        NAMES[metric],
        [a, b].map((result, index) => ({ name: names[index]!, cdf: result[metric].cdf })),
      ),
    ),
    figure({
      title: "Tokens over time",
      x: { label: "seconds" },
      y: { label: "tokens per second" },
      series: [a, b].map((result, index) => overTime(names[index]!, result, (bucket) => bucket.tokens)),
    }),
  ];
  return page(
    "prefixd load: two runs",
    `<h1>${escape(names[0])} and ${escape(names[1])}</h1>${table(["", ...names, "change"], rows)}<div class="plots">${plots.join("")}</div>`,
  );
}
