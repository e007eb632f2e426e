/**
 * How much of the bare kernels' decode speed is left (1) after the engine and (2) after HTTP with 32 streaming clients?
 *
 *     npm run bench -- decode
 *
 * One process, the three measured in turn, medians of several rounds. The bare loop feeds the runner's bindings with
 * the likeliest token and does nothing else. Every request has a 40-token prompt; rows of a batch carry 8 different
 * prefixes of 10 tokens. The engine takes one such prompt per step, so when the last request has its first token, the
 * first request has `batch - 1` more: the bare loop starts with the same contexts and runs the same steps.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import type { Engine } from "../src/engine/engine.ts";
import { benchRequest, newEngine, openSized, promptIds, randomPrefix } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { serveEngine } from "./support/server.ts";
import type { Job, Report } from "./support/stream-clients.ts";

const PROMPT = 40;
const NEW_TOKENS = 64;
const BATCHES = [1, 8, 32] as const;
const ROUNDS = Number(process.env["ROUNDS"] ?? 7);
const HTTP_CLIENTS = 32;

await using model = await openSized("gpt2", 32);
const { runner, shape } = model;
const prefixes = Array.from({ length: 8 }, (_, seed) => randomPrefix(shape, 10, seed));
const engine = newEngine(runner);
const server = await serveEngine(engine, runner, prefixes);
const { port } = server.address() as AddressInfo;
const clients = fork(new URL("./support/stream-clients.ts", import.meta.url), { execArgv: ["--import", "tsx"] });
await once(clients, "message");

const figures: Record<string, number[]> = {};
const note = (name: string, tokensPerSecond: number): void => void (figures[name] ??= []).push(tokensPerSecond);
for (let round = -1; round < ROUNDS; round++) {
  const counted = round >= 0;
  for (const batch of BATCHES) {
    const bare = await bareLoop(batch);
    const engined = await throughEngine(engine, batch);
    if (counted) note(`bare ${batch}`, bare);
    if (counted) note(`engine ${batch}`, engined);
  }
  const http = await throughHttp(clients, port);
  if (counted) note("http", http);
  process.stderr.write(`round ${round + 1} of ${ROUNDS}\n`);
}
clients.disconnect();
server.close();

const mid = (name: string): number => median(figures[name]!);
const ratio = (a: string, b: string): string =>
  median(figures[a]!.map((value, index) => value / figures[b]![index]!)).toFixed(3);
const rows = BATCHES.map((batch) => [
  batch,
  mid(`bare ${batch}`).toFixed(0),
  mid(`engine ${batch}`).toFixed(0),
  ratio(`engine ${batch}`, `bare ${batch}`),
]);
writeSection("decode", [
  `GPT-2 small (124M, random weights), fp32, 2 threads, contexts of 50 to 114, medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
  "",
  ...table(["rows", "bare loop, tokens/s", "engine, tokens/s", "engine / bare"], rows),
  "",
  `HTTP with ${HTTP_CLIENTS} streaming clients in a second process: ${mid("http").toFixed(0)} tokens/s, ${ratio("http", "engine 32")} of the engine at 32.`,
]);
console.log(rows.map((row) => row.join("  ")).join("\n"), "\nhttp", mid("http").toFixed(0), ratio("http", "engine 32"));
process.exit(0);

/** Tokens per second of bare decode steps. */
async function bareLoop(batch: number): Promise<number> {
  const ids = new Int32Array(batch);
  const positions = new Int32Array(batch);
  for (let row = 0; row < batch; row++) {
    const prefix = prefixes[row % prefixes.length]!;
    runner.loadPrefix(row, prefix);
    const output = await runner.prefill(row, prefix.length, promptIds(PROMPT, row), "last");
    ids[row] = output.topIds[0]!;
    positions[row] = prefix.length + PROMPT + batch - 1 - row;
  }
  const steps = NEW_TOKENS - batch;
  const started = performance.now();
  for (let step = 0; step < steps; step++) {
    const output = await runner.decode(ids, positions);
    for (let row = 0; row < batch; row++) {
      ids[row] = output.topIds[row * output.candidates]!;
      positions[row]!++;
    }
  }
  return (batch * steps * 1000) / (performance.now() - started);
}

/** Tokens per second while all rows decode: from the last request's first token to the first request's end. */
function throughEngine(engine: Engine, batch: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let started = 0;
    let firstTokens = 0;
    let counted = 0;
    let open = batch;
    let rate = 0;
    for (let row = 0; row < batch; row++) {
      const seen = { tokens: 0 };
      const request = benchRequest({
        promptIds: promptIds(PROMPT, row),
        prefix: prefixes[row % prefixes.length]!,
        maxNewTokens: NEW_TOKENS,
      });
      engine.submit(request, {
        onToken() {
          if (firstTokens === batch) counted++;
          if (seen.tokens++ === 0 && ++firstTokens === batch) started = performance.now();
          return "continue";
        },
        onFinish() {
          rate ||= (counted * 1000) / (performance.now() - started);
          if (--open === 0) resolve(rate);
        },
        onError: reject,
      });
    }
  });
}

/** The same measure as seen by 32 clients that read server-sent events. */
async function throughHttp(clients: ChildProcess, port: number): Promise<number> {
  const job: Job = {
    port,
    prompts: Array.from({ length: HTTP_CLIENTS }, (_, row) => [...promptIds(PROMPT, row)]),
    prefixes: prefixes.length,
    maxNewTokens: NEW_TOKENS,
  };
  clients.send(job);
  const [report] = (await once(clients, "message")) as [Report];
  if (report.error !== undefined) throw new Error(report.error);
  return report.tokensPerSecond;
}
