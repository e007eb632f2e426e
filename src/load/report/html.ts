import type { LoadResult, Quantiles } from "../result.ts";
import { bars, colour, escape, plot, type Line } from "./svg.ts";
import { codes, number, share } from "./text.ts";

/** Bars that a reader can still tell apart. */
const MOST_BARS = 60;
/** Buckets in one dot of the scatter plot. */
const STRETCH = 4;

const STYLE = `
body { font: 15px/1.45 system-ui, sans-serif; color: #1f2937; max-width: 1360px; margin: 24px auto; padding: 0 20px; }
h1 { font-size: 24px; margin: 0; } h2 { font-size: 18px; margin: 32px 0 8px; }
table { border-collapse: collapse; margin: 8px 0; } td, th { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid #e5e7eb; font-variant-numeric: tabular-nums; }
td:first-child, th:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 16px; }
figure { margin: 0; border: 1px solid #e5e7eb; border-radius: 6px; padding: 12px; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; fill: #4b5563; } svg .grid { stroke: #e5e7eb; }
.legend span { margin-right: 14px; font-size: 13px; } .legend i { display: inline-block; width: 10px; height: 10px; margin-right: 5px; border-radius: 2px; }
.pass { color: #047857; } .fail { color: #b91c1c; font-weight: 600; } pre { background: #fef2f2; padding: 10px; overflow: auto; } pre.plain { background: #f9fafb; } summary { margin: 32px 0 8px; cursor: pointer; } .facts td { text-align: left; } .muted { color: #6b7280; }`;

/** A page that opens from disk and asks nothing of the network. */
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
      `${verification.compared} answers compared with the same requests alone (${verification.tokens} tokens, ${verification.cases} cases), ${verification.digests} digests; wrong: ${verification.wrong}`,
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

/** Offered and answered requests per second of several buckets together: single ones hold few requests. */
function stretches(series: LoadResult["series"]): [number, number][] {
  const mean = (part: LoadResult["series"], key: "offered" | "completed"): number =>
    part.reduce((sum, bucket) => sum + bucket[key], 0) / part.length;
  return Array.from({ length: Math.ceil(series.length / STRETCH) }, (_, index) =>
    series.slice(index * STRETCH, (index + 1) * STRETCH),
  ).map((part) => [mean(part, "offered"), mean(part, "completed")]);
}

function plots(result: LoadResult): string[] {
  const { series, groups, users, servers } = result;
  const over = (name: string, value: (bucket: LoadResult["series"][number]) => number | null): Line => ({
    name,
    points: series.map((bucket) => [bucket.at_s, value(bucket)]),
  });
  const distribution = (name: string, { cdf }: Quantiles): Line => ({ name, points: cdf });
  const shownUsers = users.slice(0, MOST_BARS);
  const groupColour = (name: string): string => colour(groups.findIndex((group) => group.name === name));
  return [
    plot({
      title: "Latency over time",
      x: "seconds",
      y: "milliseconds",
      lines: [
        over("TTFT p50", (b) => b.ttft_p50),
        over("TTFT p99", (b) => b.ttft_p99),
        over("end to end p99", (b) => b.end_to_end_p99),
      ],
    }),
    plot({
      title: "Requests over time",
      x: "seconds",
      y: "requests per second",
      lines: [over("offered", (b) => b.offered), over("answered", (b) => b.completed), over("failed", (b) => b.failed)],
    }),
    plot({ title: "Tokens over time", x: "seconds", y: "tokens per second", lines: [over("tokens", (b) => b.tokens)] }),
    plot({ title: "Requests under way", x: "seconds", y: "requests", lines: [over("under way", (b) => b.in_flight)] }),
    plot({
      title: "TTFT, distribution",
      x: "milliseconds",
      y: "share at or below",
      logX: true,
      lines: groups.map((group) => distribution(group.name, group.ttft)),
    }),
    plot({
      title: "Inter-token latency, distribution",
      x: "milliseconds",
      y: "share at or below",
      logX: true,
      lines: groups.map((group) => distribution(group.name, group.inter_token)),
    }),
    plot({
      title: "End to end, distribution",
      x: "milliseconds",
      y: "share at or below",
      logX: true,
      lines: groups.map((group) => distribution(group.name, group.end_to_end)),
    }),
    plot({
      title: "Throughput against offered load",
      x: "requests offered per second",
      y: "requests answered per second",
      lines: [{ name: "a stretch of time", dots: true, points: stretches(series) }],
    }),
    bars(
      `Tokens by weight, per user (${groups.map((group) => `${group.name}: Jain ${group.jain.toFixed(3)}`).join(", ")})`,
      shownUsers.map((user) => ({
        name: user.user,
        value: user.tokens / user.weight,
        colour: groupColour(user.group),
      })),
    ),
    bars(
      "TTFT p99 per user, milliseconds",
      shownUsers.map((user) => ({ name: user.user, value: user.ttft_p99, colour: groupColour(user.group) })),
    ),
    ...servers
      .filter(({ samples }) => samples.length > 1)
      .flatMap(({ url, samples }) => [
        plot({
          title: `Memory of ${url}`,
          x: "seconds",
          y: "MiB resident",
          lines: [{ name: "RSS", points: samples.map((sample) => [sample.at_s, sample.rss_mib]) }],
        }),
        plot({
          title: `Queue of ${url}`,
          x: "seconds",
          y: "",
          lines: [
            { name: "waiting", points: samples.map((sample) => [sample.at_s, sample.queue_depth]) },
            { name: "running", points: samples.map((sample) => [sample.at_s, sample.running]) },
          ],
        }),
      ]),
  ];
}
