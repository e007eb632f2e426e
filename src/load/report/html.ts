import { counted } from "../../counted.ts";
import { escapeMarkup as escape } from "../../reporting/escape-markup.ts";
import { linePlot, rowPlot, type LinePlot, type Series } from "../../reporting/plot.ts";
import type { LoadResult, Quantiles } from "../result.ts";
import { codes, number, share } from "./text.ts";

/** Bars a reader can still tell apart. */
const MOST_BARS = 60;
/** Buckets per dot of the scatter plot. */
const STRETCH = 4;

const STYLE = `
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2937; max-width: 1360px; margin: 24px auto; padding: 0 20px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 8px; }
table { border-collapse: collapse; margin: 8px 0; } td, th { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #e5e7eb; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid #e5e7eb; border-radius: 6px; padding: 12px; } svg { width: 100%; height: auto; }
.pass { color: #047857; } .fail { color: #b91c1c; font-weight: 600; } pre { background: #fef2f2; padding: 10px; overflow: auto; } pre.plain { background: #f9fafb; } summary { margin: 32px 0 8px; cursor: pointer; } .facts td { text-align: left; } .muted { color: #6b7280; }`;

/** A page that opens from disk and loads nothing from the network. */
export function page(title: string, body: string): string {
  return `<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escape(title)}</title><style>${STYLE}</style></head><body>\n${body}\n</body></html>\n`;
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const row = (cells: readonly string[], tag: string): string =>
    `<tr>${cells.map((cell) => `<${tag}>${cell}</${tag}>`).join("")}</tr>`;
  return `<table><thead>${row(head.map(escape), "th")}</thead><tbody>${rows.map((cells) => row(cells, "td")).join("")}</tbody></table>`;
}

/** The report of one run. */
export function reportHtml(result: LoadResult): string {
  const { scenario, totals, verification, client, registered } = result;
  const facts = [
    ["requests", `${totals.requests}, ${totals.requests_per_s.toFixed(1)} answered per second`],
    ["tokens", `${totals.tokens}, ${totals.tokens_per_s.toFixed(0)} per second`],
    [
      "goodput",
      `${share(totals.goodput)}: ${totals.goodput_per_s.toFixed(1)} requests per second within TTFT ${scenario.slo.ttft_ms} ms and ${scenario.slo.inter_token_ms} ms a token`,
    ],
    ["errors", escape(codes(totals.errors))],
    ["provoked by the run", escape(codes(totals.provoked))],
    ["changes", escape(codes(result.churn))],
    [
      "verified",
      `${counted(verification.compared, "answer")} compared with the same requests alone (${counted(verification.tokens, "token")}, ${counted(verification.cases, "case")}), ${counted(verification.digests, "digest")}; wrong: ${verification.wrong}`,
    ],
    ["prefixes", `${registered.prefixes} (${registered.kind}), registered in ${registered.seconds.toFixed(1)} s`],
    ...result.servers.map(({ url, problem, queue }) => [
      escape(url),
      problem !== null
        ? `no metrics: ${escape(problem)}`
        : queue === null
          ? "nothing was queued"
          : `queue time mean ${queue.mean.toFixed(1)} ms`,
    ]),
    [
      "client",
      `lag p99 ${client.lag_p99.toFixed(1)} ms, max ${client.lag_max.toFixed(1)} ms; sent late p99 ${client.send_delay_p99.toFixed(1)} ms; at most ${client.most_in_flight} requests at once; ${client.cpus} cores, Node ${escape(client.node)}`,
    ],
    ...result.notes.map((note) => ["note", escape(note)]),
  ];
  const criteria = result.criteria.map(({ passed, name, value, limit }) => [
    escape(name),
    value === null ? "not measured" : number(value),
    escape(limit),
    `<span class="${passed ? "pass" : "fail"}">${passed ? "pass" : "FAIL"}</span>`,
  ]);
  const wrong = verification.examples.map(
    ({ what, ...rest }) => `<h3>${escape(what)}</h3><pre>${escape(JSON.stringify(rest, null, 2))}</pre>`,
  );
  const body = [
    `<h1>${escape(scenario.name)}: <span class="${result.passed ? "pass" : "fail"}">${result.passed ? "passed" : "failed"}</span></h1>`,
    `<p>${escape(scenario.description)}</p><p class="muted">${escape(result.started_at)}, ${result.seconds.toFixed(1)} s, ${escape(result.urls.join(", "))}</p>`,
    ...result.warnings.map(({ name, text }) => `<p class="fail">Warning ${escape(name)}: ${escape(text)}.</p>`),
    `<h2>Criteria</h2>${table(["criterion", "value", "limit", ""], criteria)}`,
    ...(wrong.length > 0 ? [`<h2>Wrong answers</h2>${wrong.join("")}`] : []),
    `<h2>Figures</h2><div class="facts">${table(["", ""], facts)}</div>`,
    latencyTable(result),
    `<h2>Plots</h2><div class="plots">${plots(result).join("")}</div>`,
    `<h2>Users</h2>${userTable(result)}`,
    `<details><summary>The scenario as it was run</summary><pre class="plain">${escape(JSON.stringify(scenario, null, 2))}</pre></details>`,
  ];
  return page(`prefixd load: ${scenario.name}`, body.join("\n"));
}

function latencyTable(result: LoadResult): string {
  const row = (name: string, { count, mean, p50, p90, p99, p999, max }: Quantiles): string[] => [
    escape(name),
    String(count),
    ...[mean, p50, p90, p99, p999, max].map((value) => value.toFixed(1)),
  ];
  const rows = [
    ...(["ttft", "inter_token", "end_to_end"] as const).map((metric) => row(NAMES[metric], result[metric])),
    ...result.groups.flatMap((group) =>
      (["ttft", "inter_token", "end_to_end"] as const).map((metric) =>
        row(`${group.name}: ${NAMES[metric]}`, group[metric]),
      ),
    ),
  ];
  return table(["milliseconds", "count", "mean", "p50", "p90", "p99", "p99.9", "max"], rows);
}

export const NAMES = { ttft: "TTFT", inter_token: "inter-token", end_to_end: "end to end" } as const;

function userTable({ users }: LoadResult): string {
  const shown = users.slice(0, 1000);
  return table(
    ["user", "weight", "requests", "ok", "tokens", "goodput", "TTFT p50", "TTFT p99"],
    shown.map((user) => [
      escape(user.user),
      number(user.weight),
      String(user.requests),
      String(user.ok),
      String(user.tokens),
      share(user.goodput),
      user.ttft_p50.toFixed(1),
      user.ttft_p99.toFixed(1),
    ]),
  );
}

/** Mean offered and answered requests per second over STRETCH buckets: single ones hold few requests. */
function stretches(series: LoadResult["series"]): [number, number][] {
  const mean = (part: LoadResult["series"], key: "offered" | "completed"): number =>
    part.reduce((sum, bucket) => sum + bucket[key], 0) / part.length;
  return Array.from({ length: Math.ceil(series.length / STRETCH) }, (_, index) =>
    series.slice(index * STRETCH, (index + 1) * STRETCH),
  ).map((part) => [mean(part, "offered"), mean(part, "completed")]);
}

/** Milliseconds on a logarithmic axis against the share of requests or gaps at or below them. */
export function distributionPlot(
  name: string,
  lines: readonly { readonly name: string; readonly cdf: Quantiles["cdf"] }[],
): string {
  return figure({
    title: `${name}, distribution`,
    x: { label: "milliseconds", log: true },
    y: { label: "share at or below" },
    series: lines.map(({ name, cdf }) => ({ name, marks: "line", points: cdf.filter(([ms]) => ms > 0) })),
  });
}

/** One value of each bucket of a run. */
export const overTime = (
  name: string,
  { series }: Pick<LoadResult, "series">,
  value: (bucket: LoadResult["series"][number]) => number | null,
): Series => ({ name, marks: "line", points: series.map((bucket) => [bucket.at_s, value(bucket)]) });

export const figure = (plot: LinePlot): string => `<figure>${linePlot(plot)}</figure>`;

function plots(result: LoadResult): string[] {
  const { series, groups, users, servers } = result;
  const seconds = { label: "seconds" };
  const distribution = (metric: keyof typeof NAMES, name: string = NAMES[metric]): string =>
    distributionPlot(
      name,
      groups.map((group) => ({ name: group.name, cdf: group[metric].cdf })),
    );
  const perUser = (title: string, label: string, value: (user: LoadResult["users"][number]) => number): string => {
    const rows = users.slice(0, MOST_BARS).map((user) => ({ name: user.user, group: user.group, value: value(user) }));
    return `<figure>${rowPlot({ title, x: { label }, rows })}</figure>`;
  };
  return [
    figure({
      title: "Latency over time",
      x: seconds,
      y: { label: "milliseconds" },
      series: [
        overTime("TTFT p50", result, (b) => b.ttft_p50),
        overTime("TTFT p99", result, (b) => b.ttft_p99),
        overTime("end to end p99", result, (b) => b.end_to_end_p99),
      ],
    }),
    figure({
      title: "Requests over time",
      x: seconds,
      y: { label: "requests per second" },
      series: [
        overTime("offered", result, (b) => b.offered),
        overTime("answered", result, (b) => b.completed),
        overTime("failed", result, (b) => b.failed),
      ],
    }),
    figure({
      title: "Tokens over time",
      x: seconds,
      y: { label: "tokens per second" },
      series: [overTime("tokens", result, (b) => b.tokens)],
    }),
    figure({
      title: "Requests in flight",
      x: seconds,
      y: { label: "requests" },
      series: [overTime("in flight", result, (b) => b.in_flight)],
    }),
    distribution("ttft"),
    distribution("inter_token", "Inter-token latency"),
    distribution("end_to_end", "End to end"),
    figure({
      title: "Throughput against offered load",
      x: { label: "requests offered per second" },
      y: { label: "requests answered per second" },
      series: [{ name: `${STRETCH} buckets`, marks: "dots", points: stretches(series) }],
    }),
    perUser(
      "Tokens by weight, per user",
      `Jain's fairness index: ${groups.map((group) => `${group.name} ${group.jain.toFixed(3)}`).join(", ")}`,
      (user) => user.tokens / user.weight,
    ),
    perUser("TTFT p99 per user", "milliseconds", (user) => user.ttft_p99),
    ...servers
      .filter(({ samples }) => samples.length > 1)
      .flatMap(({ url, samples }) => [
        figure({
          title: `Memory of ${url}`,
          x: seconds,
          y: { label: "MiB resident" },
          series: [
            { name: "RSS", marks: "line", points: samples.map((sample) => [sample.at_s, sample.rss_mib]) },
            { name: "in use", marks: "line", points: samples.map((sample) => [sample.at_s, sample.in_use_mib]) },
          ],
        }),
        figure({
          title: `Queue of ${url}`,
          x: seconds,
          y: { label: "requests" },
          series: [
            { name: "waiting", marks: "line", points: samples.map((sample) => [sample.at_s, sample.queue_depth]) },
            { name: "running", marks: "line", points: samples.map((sample) => [sample.at_s, sample.running]) },
          ],
        }),
      ]),
  ];
}
