/**
 * What bench `overhead` measures, one way in a process of its own: a way that came after another in the same process would find
 * functions compiled for the other's shapes, which costs up to a tenth. The parent forks this file with OverheadSettings as JSON and
 * gets a message of OverheadFigures.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Engine } from "../../src/engine/engine.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import { DEFAULT_SAMPLING, GenerationService } from "../../src/generation/service.ts";
import { exactly } from "../../src/generation/lengths.ts";
import type { KvTensor } from "../../src/kv.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import { openTracing } from "../../src/observability/tracing/open.ts";
import type { Tracing } from "../../src/observability/tracing/trace.ts";
import { openHttpWorkers } from "../../src/start/http-workers.ts";
import { readSystemFile } from "../../src/system-files.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { SIMULATED } from "../../test/support/devices.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { benchRequest, openFolder, prefillChunkOf, promptIds, randomPrefix, sizedCheckpoint } from "./gpt2.ts";
import { NULL_SHAPE, NullRunner } from "./null-runner.ts";
import type { Command, Count } from "./raw-clients.ts";
import { BENCH_MODEL, memoryRegistry, serveEngine } from "./server.ts";

export type OverheadWay = "engine" | "text" | "server" | "workers" | "v1" | "live" | "tracing" | "device";

export interface OverheadSettings {
  readonly way: OverheadWay;
  readonly doSample: boolean;
  readonly streams: number;
  /** HTTP workers of the way `workers`. */
  readonly workers: number;
  /** Processes of clients. */
  readonly clientProcesses: number;
  /** Readers of the live feed in the way `live`. */
  readonly live: number;
  /** The model's, in the way `device`. */
  readonly device: "cuda" | "webgpu" | "simulated" | null;
  /** Of that model: every stream has one of so many prefixes of so many tokens. */
  readonly prefixes: { readonly count: number; readonly tokens: number };
  /** Tokens until functions are compiled. */
  readonly warmTokens: number;
  readonly measureMs: number;
}

export interface OverheadFigures {
  readonly tokensPerSecond: number;
  /** Processor time of the process, in microseconds. */
  readonly cpuPerToken: number;
  /** That of its main thread, without V8's helpers: it bounds the server where there are cores for all. */
  readonly threadCpuPerToken: number;
  /** Share of the time that the event loop's thread was busy. */
  readonly busy: number;
  /** Processor time of the clients' processes, in microseconds; 0 if there are none. */
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

/** A load that has been started. */
interface Running {
  count(): Promise<Counts>;
  stop(): Promise<void>;
}

const PROMPT = 16;
/** The ids of the demo's tokenizer. */
const IDS = 4096;
const LENGTHS = Array.from({ length: 997 }, (_, index) => 64 + ((index * 37) % 137));

const leaseUntil = performance.now() + 1e9;
const mayEmit = (): boolean => performance.now() < leaseUntil;

const settings = JSON.parse(process.argv[2]!) as OverheadSettings;
const { way, doSample, streams, clientProcesses, device, warmTokens, measureMs } = settings;
const tokenizer = await loadTokenizer(new URL("../../models/demo", import.meta.url).pathname, NULL_SHAPE.vocabSize);
const parts = (
  runner: ModelRunner = new NullRunner(streams, IDS),
): { runner: ModelRunner; metrics: Metrics; engine: Engine } => {
  const metrics = new Metrics({ processMetrics: false });
  return {
    runner,
    metrics,
    engine: new Engine({ runner, maxQueue: 10_000, prefillChunk: prefillChunkOf(runner), observer: metrics, mayEmit }),
  };
};
const model =
  device === null || way !== "device"
    ? null
    : await openFolder(
        await sizedCheckpoint("gpt2"),
        streams,
        device === "cuda" ? "fp16" : "fp32",
        2,
        device === "simulated" ? SIMULATED.handles : DEVICES[device],
      );
const prefixes =
  model === null
    ? []
    : Array.from({ length: settings.prefixes.count }, (_, seed) =>
        randomPrefix(model.shape, settings.prefixes.tokens, seed),
      );

const WAYS: Readonly<Record<OverheadWay, () => Promise<Running>>> = {
  engine: engineAlone,
  text: withText,
  server: () => wholeServer(parts(), []),
  workers: () => wholeServer(parts(), [], { count: settings.workers }),
  v1: () => wholeServer(parts(), [], { path: "/v1/completions", bodyOf: completionsBody }),
  live: () => wholeServer(parts(), [], { readers: settings.live }),
  tracing: async () => wholeServer(parts(), [], { traced: await traceToSink() }),
  device: () => wholeServer(parts(model!.runner), prefixes),
};
process.send!(await measure(WAYS[way]), () => process.exit(0));

async function measure(start: () => Promise<Running>): Promise<OverheadFigures> {
  const load = await start();
  while ((await load.count()).tokens < warmTokens) await sleep(50);
  const mainThread = `self/task/${process.pid}`;
  const [before, cpu, thread, loop, started] = [
    await load.count(),
    process.cpuUsage(),
    cpuOf(mainThread),
    performance.eventLoopUtilization(),
    performance.now(),
  ];
  await sleep(measureMs);
  const [after, { user, system }, threadAfter, { utilization }, ended] = [
    await load.count(),
    process.cpuUsage(cpu),
    cpuOf(mainThread),
    performance.eventLoopUtilization(loop),
    performance.now(),
  ];
  await load.stop();
  const tokens = after.tokens - before.tokens;
  return {
    tokensPerSecond: (tokens * 1000) / (ended - started),
    cpuPerToken: (user + system) / tokens,
    threadCpuPerToken: (threadAfter - thread) / tokens,
    busy: utilization,
    clientCpuPerToken: (after.cpu - before.cpu) / tokens,
    workerCpuPerToken: (after.workersCpu - before.workersCpu) / tokens,
  };
}

function engineAlone(): Promise<Running> {
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
      onFinish: () => begin(index + streams),
      onError: () => {},
    });
  };
  for (let index = 0; index < streams; index++) begin(index);
  const stop = (): Promise<void> => ((over = true), engine.drain(0));
  return Promise.resolve({ count: () => Promise.resolve({ tokens, cpu: 0, workersCpu: 0 }), stop });
}

function withText(): Promise<Running> {
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
      onStep: (_deltas: unknown, end: unknown) => (tokens++, end !== null && begin(index + streams)),
      onError: () => {},
    };
    void service.start(request, listener, new AbortController().signal);
  };
  for (let index = 0; index < streams; index++) begin(index);
  const stop = (): Promise<void> => ((over = true), engine.drain(0));
  return Promise.resolve({ count: () => Promise.resolve({ tokens, cpu: 0, workersCpu: 0 }), stop });
}

async function wholeServer(
  { engine, metrics, runner }: ReturnType<typeof parts>,
  known: readonly KvTensor[],
  { path = "/generate", bodyOf = generateBody, readers = 0, count = 0, traced = null as Tracing | null } = {},
): Promise<Running> {
  const pool =
    count === 0
      ? null
      : (await openHttpWorkers(
          { count, leaseUntil: () => leaseUntil, metrics, logger: createLogger("warn") },
          { defer: () => undefined },
        ))!;
  const server = await serveEngine(engine, runner, known, {
    tokenizer,
    metrics,
    mayEmit,
    tracing: traced,
    workers: pool,
  });
  const clients = await Promise.all(Array.from({ length: clientProcesses }, startClients));
  const bodies = LENGTHS.map((newTokens, index) =>
    JSON.stringify({
      prompt: [...promptIds(PROMPT, index)],
      ...bodyOf(newTokens),
      seed: index,
      ignore_eos: true,
      stream: true,
      ...(known.length > 0 && { prefix_id: `p${index % known.length}` }),
    }),
  );
  const { port } = server.address() as AddressInfo;
  clients.forEach((one, index) => {
    const share = Math.ceil((streams - index) / clientProcesses);
    send(one, { kind: "load", load: { port, path, clients: share, live: index === 0 ? readers : 0, bodies } });
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
  const clients = fork(new URL("./raw-clients.ts", import.meta.url), { execArgv: ["--import", "tsx"] });
  await once(clients, "message");
  return clients;
}

/** Processor time in microseconds of a process, or of a thread, by its folder in /proc; the kernel counts hundredths of a second. */
function cpuOf(folder: number | string): number {
  const fields = readSystemFile(`/proc/${folder}/stat`).split(") ")[1]?.split(" ") ?? [];
  return (Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * 10_000;
}

/** The SDK reads its settings from the process's variables. */
async function traceToSink(): Promise<Tracing | null> {
  const sink = fork(new URL("./otlp-sink.ts", import.meta.url), { execArgv: ["--import", "tsx"] });
  const [port] = (await once(sink, "message")) as [number];
  process.env["OTEL_EXPORTER_OTLP_ENDPOINT"] = `http://127.0.0.1:${port}`;
  return openTracing(process.env, createLogger("warn"));
}

function generateBody(newTokens: number): object {
  return { max_new_tokens: newTokens, do_sample: doSample };
}

/** The same request with OpenAI's fields. */
function completionsBody(newTokens: number): object {
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
