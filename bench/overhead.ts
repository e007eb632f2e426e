/**
 * How many tokens per second does the server itself process, when the model costs nothing?
 *
 *     [STREAMS=256] [WORKERS=4] [CLIENTS=2] [V1=1] [LIVE=1] [TRACING=1] [DEVICE=cuda|webgpu GPU="name"] npm run bench -- overhead
 *
 * A runner with precomputed answers, 256 streams of 64 to 200 tokens that restart as they end, measured three ways, each
 * measurement in a process of its own: the engine alone; with GenerationService, which makes text; the whole server, from raw sockets of another process. The
 * runner answers in a later turn of the event loop, like one on a GPU. With DEVICE the whole server also serves GPT-2
 * small (random weights) from there, every stream with one of 64 prefixes of 60: how much of the process's capacity is
 * left? With V1 the whole server is also asked at /v1/completions, with LIVE also while LIVE others read
 * GET /admin/live, with TRACING also with every request traced to a collector in a process of its own, each round after
 * /generate. With WORKERS it is measured with as many HTTP workers, too: what this process spends on a token then bounds
 * what a machine with cores for all can reach. CLIENTS processes ask, the streams shared among them.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { machine, median, table, writeSection } from "./support/report.ts";
import type { OverheadFigures, OverheadSettings, OverheadWay } from "./support/overhead-ways.ts";

const STREAMS = Number(process.env["STREAMS"] ?? 256);
const DEVICE = (process.env["DEVICE"] ?? null) as OverheadSettings["device"];
const WORKERS = Number(process.env["WORKERS"] ?? 0);
const LIVE = Number(process.env["LIVE"] ?? 0);
const PREFIXES = { count: 64, tokens: 60 };
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);

const NAMES: Readonly<Partial<Record<OverheadWay, string>>> = {
  engine: "engine alone",
  text: "with text",
  server: "whole server",
  ...(WORKERS > 0 && { workers: `whole server with ${WORKERS} HTTP workers` }),
  ...(process.env["V1"] !== undefined && { v1: "whole server at /v1/completions" }),
  ...(LIVE > 0 && { live: "whole server with the live feed read" }),
  ...(process.env["TRACING"] !== undefined && { tracing: "whole server with tracing" }),
  ...(DEVICE !== null && { device: `whole server with GPT-2 on ${DEVICE}` }),
};
const only = process.env["ONLY"]?.split(",");
const ways = (Object.keys(NAMES) as OverheadWay[]).filter((way) => only?.includes(way) ?? true);

const figures = new Map<string, OverheadFigures[]>();
for (const way of ways) for (const choice of ["greedy", "sampling"]) figures.set(`${NAMES[way]}, ${choice}`, []);
for (let round = 0; round < ROUNDS; round++) {
  // What comes later finds a warmer machine.
  for (const way of round % 2 === 0 ? ways : ways.toReversed()) {
    for (const choice of ["greedy", "sampling"]) {
      const measured = await measure(way, choice === "sampling");
      const key = `${NAMES[way]}, ${choice}`;
      figures.get(key)!.push(measured);
      console.log(
        key,
        Object.values(measured)
          .map((value: number) => value.toFixed(2))
          .join("  "),
      );
    }
  }
}
const rows = [...figures].map(([name, all]) => {
  const mid = (key: keyof OverheadFigures): number => median(all.map((one) => one[key]));
  return [
    name,
    mid("tokensPerSecond").toFixed(0),
    mid("cpuPerToken").toFixed(1),
    mid("threadCpuPerToken").toFixed(1),
    (1e6 / mid("threadCpuPerToken")).toFixed(0),
    `${(100 * mid("busy")).toFixed(0)} %`,
    mid("clientCpuPerToken") > 0 ? mid("clientCpuPerToken").toFixed(1) : "",
    ...(WORKERS === 0 ? [] : [mid("workerCpuPerToken") > 0 ? mid("workerCpuPerToken").toFixed(1) : ""]),
  ];
});
console.log(rows.map((row) => row.join("  ")).join("\n"));
if (only === undefined && DEVICE !== "simulated") {
  writeSection(DEVICE === null ? "overhead" : `overhead-${DEVICE}`, [
    `A runner that costs nothing, ${STREAMS} streams of 64 to 200 tokens, 64 candidates of 50,257, the demo's tokenizer; "sampling" is \`do_sample\` with its defaults. Medians of ${ROUNDS} interleaved rounds. Other work on the machine lowers tokens per second; processor time per token is what remains comparable. ${DEVICE === null ? "" : `GPT-2 small with random weights on ${process.env["GPU"]}, every stream with one of ${PREFIXES.count} prefixes of ${PREFIXES.tokens}. `}${machine()}.`,
    "",
    ...table(
      [
        "",
        "tokens/s",
        "server's CPU, µs / token",
        "its main thread's",
        "tokens per second of that thread",
        "event loop busy",
        "clients' CPU, µs / token",
        ...(WORKERS === 0 ? [] : ["workers' CPU, µs / token"]),
      ],
      rows,
    ),
  ]);
}

async function measure(way: OverheadWay, doSample: boolean): Promise<OverheadFigures> {
  const settings: OverheadSettings = {
    way,
    doSample,
    streams: STREAMS,
    workers: WORKERS,
    clientProcesses: Number(process.env["CLIENTS"] ?? 1),
    live: LIVE,
    device: DEVICE,
    prefixes: PREFIXES,
    warmTokens: Number(process.env["WARM_TOKENS"] ?? 200_000),
    measureMs: Number(process.env["MEASURE_MS"] ?? 4000),
  };
  const child = fork(new URL("./support/overhead-ways.ts", import.meta.url), [JSON.stringify(settings)]);
  const [figuresOrCode] = (await Promise.race([once(child, "message"), once(child, "exit")])) as [
    OverheadFigures | number,
  ];
  if (typeof figuresOrCode === "number") throw new Error(`${way} ended with exit code ${figuresOrCode}`);
  return figuresOrCode;
}
