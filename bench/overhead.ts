/**
 * How many tokens per second does the server itself process, when the model costs nothing?
 *
 *     [STREAMS=256] [WORKERS=4] [CLIENTS=2] [V1=1] [LIVE=1] [TRACING=1] [DEVICE=cuda|webgpu GPU="name"] npm run bench -- overhead
 *
 * A runner with precomputed answers, 256 streams of 64 to 200 tokens that restart as they end, measured three ways: the
 * engine alone; with GenerationService, which makes text; the whole server, from raw sockets of another process. The
 * runner answers in a later turn of the event loop, like one on a GPU. With DEVICE the whole server also serves GPT-2
 * small (random weights) from there, every stream with one of 64 prefixes of 60: how much of the process's capacity is
 * left? With V1 the whole server is also asked at /v1/completions, with LIVE also while LIVE others read
 * GET /admin/live, with TRACING also with every request traced to a collector in a process of its own, each round after
 * /generate. With WORKERS it is measured with as many HTTP workers, too: what this process spends on a token then bounds
 * what a machine with cores for all can reach. CLIENTS processes ask, the streams shared among them.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Engine } from "../src/engine/engine.ts";
import type { ModelRunner } from "../src/engine/runner.ts";
import { DEFAULT_SAMPLING, GenerationService } from "../src/generation/service.ts";
import { exactly } from "../src/generation/lengths.ts";
import type { KvTensor } from "../src/kv.ts";
import { createLogger } from "../src/observability/logging.ts";
import { Metrics } from "../src/observability/metrics.ts";
import { openTracing } from "../src/observability/tracing/open.ts";
import type { Tracing } from "../src/observability/tracing/trace.ts";
import { openHttpWorkers } from "../src/start/http-workers.ts";
import { readSystemFile } from "../src/system-files.ts";
import { DEVICES } from "../src/runtime/devices.ts";
import { SIMULATED } from "../test/support/devices.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { benchRequest, openFolder, prefillChunkOf, promptIds, randomPrefix, sizedCheckpoint } from "./support/gpt2.ts";
import { NULL_SHAPE, NullRunner } from "./support/null-runner.ts";
import type { Command, Count } from "./support/raw-clients.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { BENCH_MODEL, memoryRegistry, serveEngine } from "./support/server.ts";

const STREAMS = Number(process.env["STREAMS"] ?? 256);
const KIND = process.env["DEVICE"] as "cuda" | "webgpu" | "simulated" | undefined;
const WORKERS = Number(process.env["WORKERS"] ?? 0);
/** Processes of clients. */
const CLIENTS = Number(process.env["CLIENTS"] ?? 1);
/** Readers of the live feed. */
const LIVE = Number(process.env["LIVE"] ?? 0);
const [PREFIXES, PREFIX] = [64, 60];
const PROMPT = 16;
/** Warm-up tokens: until then functions are still being compiled. */
const WARM_TOKENS = Number(process.env["WARM_TOKENS"] ?? 200_000);
const MEASURE_MS = Number(process.env["MEASURE_MS"] ?? 4000);
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
/** The ids of the demo's tokenizer. */
const IDS = 4096;
const LENGTHS = Array.from({ length: 997 }, (_, index) => 64 + ((index * 37) % 137));

interface Figures {
  readonly tokensPerSecond: number;
  /** Processor time of the process, in microseconds. */
  readonly cpuPerToken: number;
  /** Share of the time that the event loop's thread was busy. */
  readonly busy: number;
  /** Processor time of the clients' process, in microseconds; 0 if there are none. */
  readonly clientCpuPerToken: number;
  /** The same of the HTTP workers together. */
  readonly workerCpuPerToken: number;
}
/** So far: tokens, and processor time of clients and of workers. */
interface Counts {
  readonly tokens: number;
  readonly cpu: number;
  readonly workersCpu: number;
}
/** Starts the load. */
type Way = (doSample: boolean) => Promise<{ count(): Promise<Counts>; stop(): Promise<void> }>;

const tokenizer = await loadTokenizer(new URL("../models/demo", import.meta.url).pathname, NULL_SHAPE.vocabSize);
const leaseUntil = performance.now() + 1e9;
const mayEmit = (): boolean => performance.now() < leaseUntil;
const parts = (
  runner: ModelRunner = new NullRunner(STREAMS, IDS),
): { runner: ModelRunner; metrics: Metrics; engine: Engine } => {
  const metrics = new Metrics({ processMetrics: false });
  return {
    runner,
    metrics,
    engine: new Engine({ runner, maxQueue: 10_000, prefillChunk: prefillChunkOf(runner), observer: metrics, mayEmit }),
  };
};
const model =
  KIND === undefined
    ? null
    : await openFolder(
        await sizedCheckpoint("gpt2"),
        STREAMS,
        KIND === "cuda" ? "fp16" : "fp32",
        2,
        KIND === "simulated" ? SIMULATED.handles : DEVICES[KIND],
      );
const prefixes =
  model === null ? [] : Array.from({ length: PREFIXES }, (_, seed) => randomPrefix(model.shape, PREFIX, seed));

let tracing: Promise<Tracing | null> | undefined;
const WAYS: Readonly<Record<string, Way>> = {
  "engine alone": engineAlone,
  "with text": withText,
  "whole server": (doSample) => wholeServer(doSample, parts(), []),
  ...(WORKERS === 0
    ? {}
    : {
        [`whole server with ${WORKERS} HTTP workers`]: (doSample: boolean) =>
          wholeServer(doSample, parts(), [], { workers: WORKERS }),
      }),
  ...(process.env["V1"] === undefined
    ? {}
    : {
        "whole server at /v1/completions": (doSample: boolean) =>
          wholeServer(doSample, parts(), [], { path: "/v1/completions", bodyOf: completionsBody }),
      }),
  ...(LIVE === 0
    ? {}
    : {
        "whole server with the live feed read": (doSample: boolean) =>
          wholeServer(doSample, parts(), [], { live: LIVE }),
      }),
  ...(process.env["TRACING"] === undefined
    ? {}
    : {
        "whole server with tracing": async (doSample: boolean) =>
          wholeServer(doSample, parts(), [], { traced: await (tracing ??= traceToSink()) }),
      }),
  ...(model === null
    ? {}
    : {
        [`whole server with GPT-2 on ${KIND}`]: (doSample: boolean) =>
          wholeServer(doSample, parts(model.runner), prefixes),
      }),
};
const only = process.env["ONLY"]?.split(",") ?? Object.keys(WAYS);
const figures = new Map<string, Figures[]>();
for (let round = 0; round < ROUNDS; round++) {
  for (const [name, way] of Object.entries(WAYS)) {
    if (!only.includes(name)) continue;
    for (const choice of ["greedy", "sampling"]) {
      const measured = await measure(way, choice === "sampling");
      const key = `${name}, ${choice}`;
      figures.set(key, [...(figures.get(key) ?? []), measured]);
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
  const mid = (key: keyof Figures): number => median(all.map((one) => one[key]));
  return [
    name,
    mid("tokensPerSecond").toFixed(0),
    mid("cpuPerToken").toFixed(1),
    (1e6 / mid("cpuPerToken")).toFixed(0),
    `${(100 * mid("busy")).toFixed(0)} %`,
    mid("clientCpuPerToken") > 0 ? mid("clientCpuPerToken").toFixed(1) : "",
    ...(WORKERS === 0 ? [] : [mid("workerCpuPerToken") > 0 ? mid("workerCpuPerToken").toFixed(1) : ""]),
  ];
});
console.log(rows.map((row) => row.join("  ")).join("\n"));
if (process.env["ONLY"] === undefined && KIND !== "simulated") {
  writeSection(KIND === undefined ? "overhead" : `overhead-${KIND}`, [
    `A runner that costs nothing, ${STREAMS} streams of 64 to 200 tokens, 64 candidates of 50,257, the demo's tokenizer; "sampling" is \`do_sample\` with its defaults. Medians of ${ROUNDS} interleaved rounds. Other work on the machine lowers tokens per second; processor time per token is what remains comparable. ${KIND === undefined ? "" : `GPT-2 small with random weights on ${process.env["GPU"]}, every stream with one of ${PREFIXES} prefixes of ${PREFIX}. `}${machine()}.`,
    "",
    ...table(
      [
        "",
        "tokens/s",
        "server's CPU, µs / token",
        "tokens per CPU second",
        "event loop busy",
        "clients' CPU, µs / token",
        ...(WORKERS === 0 ? [] : ["workers' CPU, µs / token"]),
      ],
      rows,
    ),
  ]);
}
process.exit(0);

async function measure(way: Way, doSample: boolean): Promise<Figures> {
  const load = await way(doSample);
  while ((await load.count()).tokens < WARM_TOKENS) await sleep(50);
  const [before, cpu, loop, started] = [
    await load.count(),
    process.cpuUsage(),
    performance.eventLoopUtilization(),
    performance.now(),
  ];
  await sleep(MEASURE_MS);
  const [after, { user, system }, { utilization }, ended] = [
    await load.count(),
    process.cpuUsage(cpu),
    performance.eventLoopUtilization(loop),
    performance.now(),
  ];
  await load.stop();
  const tokens = after.tokens - before.tokens;
  return {
    tokensPerSecond: (tokens * 1000) / (ended - started),
    cpuPerToken: (user + system) / tokens,
    busy: utilization,
    clientCpuPerToken: (after.cpu - before.cpu) / tokens,
    workerCpuPerToken: (after.workersCpu - before.workersCpu) / tokens,
  };
}

function engineAlone(doSample: boolean): ReturnType<Way> {
  const { engine } = parts();
  let tokens = 0;
  let over = false;
  const begin = (index: number): void => {
    if (over) return;
    const request = benchRequest({
      promptIds: promptIds(PROMPT, index),
      maxNewTokens: LENGTHS[index % LENGTHS.length]!,
      sampling: { ...DEFAULT_SAMPLING, doSample },
      seed: index,
    });
    engine.submit(request, {
      onToken: () => (tokens++, "continue"),
      onFinish: () => begin(index + STREAMS),
      onError: () => {},
    });
  };
  for (let index = 0; index < STREAMS; index++) begin(index);
  const stop = (): Promise<void> => ((over = true), engine.drain(0));
  return Promise.resolve({ count: () => Promise.resolve({ tokens, cpu: 0, workersCpu: 0 }), stop });
}

function withText(doSample: boolean): ReturnType<Way> {
  const { engine, metrics } = parts();
  const service = new GenerationService({
    engine,
    prefixes: memoryRegistry([]),
    tokenizer,
    positions: NULL_SHAPE.positions,
    eosIds: [NULL_SHAPE.vocabSize - 1],
    allowBaseModel: true,
    metrics,
    mayEmit,
  });
  let tokens = 0;
  let over = false;
  const begin = (index: number): void => {
    if (over) return;
    const request = {
      id: String(index),
      user: "bench",
      prefix: null,
      prompts: [promptIds(PROMPT, index)],
      n: 1,
      bestOf: null,
      beams: null,
      echo: false,
      ...exactly(LENGTHS[index % LENGTHS.length]!),
      sampling: { ...DEFAULT_SAMPLING, doSample },
      seed: index,
      logprobs: null,
      stop: [],
      stopTokenIds: [],
      ignoreEos: true,
      constraint: null,
    };
    const listener = {
      onStep: (_deltas: unknown, end: unknown) => (tokens++, end !== null && begin(index + STREAMS)),
      onError: () => {},
    };
    void service.start(request, listener, new AbortController().signal);
  };
  for (let index = 0; index < STREAMS; index++) begin(index);
  const stop = (): Promise<void> => ((over = true), engine.drain(0));
  return Promise.resolve({ count: () => Promise.resolve({ tokens, cpu: 0, workersCpu: 0 }), stop });
}

async function wholeServer(
  doSample: boolean,
  { engine, metrics, runner }: ReturnType<typeof parts>,
  known: readonly KvTensor[],
  { path = "/generate", bodyOf = generateBody, live = 0, workers = 0, traced = null as Tracing | null } = {},
): ReturnType<Way> {
  const pool =
    workers === 0
      ? null
      : (await openHttpWorkers(
          { count: workers, leaseUntil: () => leaseUntil, metrics, logger: createLogger("warn") },
          { defer: () => undefined },
        ))!;
  const server = await serveEngine(engine, runner, known, {
    tokenizer,
    metrics,
    mayEmit,
    tracing: traced,
    workers: pool,
  });
  const clients = await Promise.all(Array.from({ length: CLIENTS }, startClients));
  const bodies = LENGTHS.map((newTokens, index) =>
    JSON.stringify({
      prompt: [...promptIds(PROMPT, index)],
      ...bodyOf(newTokens, doSample),
      seed: index,
      ignore_eos: true,
      stream: true,
      ...(known.length > 0 && { prefix_id: `p${index % known.length}` }),
    }),
  );
  const { port } = server.address() as AddressInfo;
  clients.forEach((one, index) => {
    const share = Math.ceil((STREAMS - index) / CLIENTS);
    send(one, { kind: "load", load: { port, path, clients: share, live: index === 0 ? live : 0, bodies } });
  });
  return {
    async count() {
      const counts = await Promise.all(
        clients.map(async (one) => {
          send(one, { kind: "count" });
          const [count] = (await once(one, "message")) as [Count];
          if (count.error !== null) throw new Error(count.error);
          return count;
        }),
      );
      return {
        tokens: counts.reduce((sum, { events }) => sum + events, 0),
        cpu: counts.reduce((sum, one) => sum + one.cpu, 0),
        workersCpu: (pool?.pids ?? []).reduce((sum, pid) => sum + cpuOf(pid), 0),
      };
    },
    async stop() {
      await Promise.all(
        clients.map(async (one) => {
          send(one, { kind: "stop" });
          await once(one, "exit");
        }),
      );
      server.close();
      await engine.drain(0);
      await pool?.close();
    },
  };
}

async function startClients(): Promise<ChildProcess> {
  const clients = fork(new URL("./support/raw-clients.ts", import.meta.url), { execArgv: ["--import", "tsx"] });
  await once(clients, "message");
  return clients;
}

/** A process's processor time in microseconds; the kernel counts hundredths of a second. */
function cpuOf(pid: number): number {
  const fields = readSystemFile(`/proc/${pid}/stat`).split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * 10_000;
}

/** The SDK reads its settings from the process's variables. */
async function traceToSink(): Promise<Tracing | null> {
  const sink = fork(new URL("./support/otlp-sink.ts", import.meta.url), { execArgv: ["--import", "tsx"] });
  const [port] = (await once(sink, "message")) as [number];
  process.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = `http://127.0.0.1:${port}`;
  return openTracing(process.env, createLogger("warn"));
}

function generateBody(newTokens: number, doSample: boolean): object {
  return { max_new_tokens: newTokens, do_sample: doSample };
}

/** The same request with OpenAI's fields. */
function completionsBody(newTokens: number, doSample: boolean): object {
  return {
    model: BENCH_MODEL,
    max_tokens: newTokens,
    temperature: doSample ? 1 : 0,
    top_k: 50,
    return_token_ids: true,
  };
}

function send(clients: ChildProcess, command: Command): void {
  clients.send(command);
}
