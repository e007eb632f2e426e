/** GPT-2 with random weights, built once into `.cache/` and ready to run: what most benchmarks measure. */
import { copyFileSync, existsSync } from "node:fs";
import { join } from "node:path";
import { DEFAULT_SPIN_TIME } from "../../src/config-schema.ts";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import { DEFAULT_SAMPLING, type EngineRequest } from "../../src/engine/request.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import { kvElements, type KvTensor, type ModelShape } from "../../src/kv.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { openRunner, type LocalRunner } from "../../src/model/open-runner.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import type { Precision } from "../../src/model/graph-weights.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { randomCheckpoint, SIZES } from "./random-checkpoint.ts";

export const CACHE = new URL("../../.cache", import.meta.url).pathname;
export const DEMO = new URL("../../models/demo", import.meta.url).pathname;
export const THREADS = 2;
/** Device memory for hot prefixes: fits 1,400 of 20 tokens for GPT-2 small in half precision. */
const BANK_BYTES = 1 << 30;

/** Creates the checkpoint if it is missing; returns its folder. */
export async function sizedCheckpoint(size: string): Promise<string> {
  const dir = join(CACHE, size);
  const shape = SIZES[size];
  if (shape === undefined) throw new Error(`no such size: ${size}`);
  const json = {
    model_type: "gpt2",
    activation_function: "gelu_new",
    vocab_size: 50257,
    n_positions: 1024,
    ...shape,
    bos_token_id: 50256,
    eos_token_id: 50256,
  };
  return existsSync(join(dir, "config.json")) ? dir : randomCheckpoint(dir, json);
}

/** The same with a tokenizer, which the server needs: the demo model's, whose ids are a subset of GPT-2's. */
export async function servableCheckpoint(size: string): Promise<string> {
  const dir = await sizedCheckpoint(size);
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) copyFileSync(join(DEMO, file), join(dir, file));
  return dir;
}

export interface BenchModel extends AsyncDisposable {
  readonly runner: LocalRunner;
  readonly shape: ModelShape;
  readonly fingerprint: string;
  readonly runtime: Runtime;
}

export const openSized = async (
  size: string,
  slots: number,
  precision?: Precision,
  threads?: number,
): Promise<BenchModel> => openFolder(await sizedCheckpoint(size), slots, precision, threads);

/** Opens a checkpoint's folder, ready to run. */
export async function openFolder(
  dir: string,
  slots: number,
  precision: Precision = "fp32",
  threads = THREADS,
  device?: Device,
  runtime = new Runtime(),
): Promise<BenchModel> {
  const checkpoint = await openCheckpoint(dir, { cacheDir: CACHE });
  // Without a GPU, half precision uses the CPU's kernels on memory treated as a device's.
  const place = device ?? (precision === "fp16" ? { ...DEVICES.cpu, hostMemory: false } : DEVICES.cpu);
  const modelPath = await ensureGraph(checkpoint, CACHE, precision, place);
  await checkpoint.close();
  const runner = await openRunner(runtime, {
    modelPath,
    shape: checkpoint.shape,
    slots,
    threads,
    spinTime: DEFAULT_SPIN_TIME,
    device: place,
    precision,
    bankBytes: place.hostMemory ? 0 : BANK_BYTES,
    batchInvariant: process.env["BATCH_INVARIANT"] === "on",
  });
  return {
    runner,
    shape: checkpoint.shape,
    fingerprint: checkpoint.fingerprint,
    runtime,
    async [Symbol.asyncDispose]() {
      await runner.close();
      runtime[Symbol.dispose]();
    },
  };
}

/** Bytes of the matrices that every decode step reads: the layers', and the token embeddings as the head. */
export const matrixBytes = ({ layers, width, vocabSize }: ModelShape, precision: Precision): number =>
  (precision === "int8" ? 1 : 4) * (12 * layers * width ** 2 + vocabSize * width);

/** The server's default of `--prefill-chunk`, for runners that take one prompt per run, and several. */
export const prefillChunkOf = ({ promptsAtOnce }: ModelRunner): number => (promptsAtOnce > 1 ? 512 : 64);

export function newEngine(
  runner: ModelRunner,
  given: Partial<Pick<EngineOptions, "policy" | "shares" | "prefillChunk" | "prefillShare" | "observer">> = {},
): Engine {
  const observer = { step() {}, queued() {}, firstToken() {}, interToken() {}, finished() {} };
  return new Engine({ runner, maxQueue: 10_000, prefillChunk: 64, observer, ...given });
}

/** A prefix of random values, distinct for some ten thousand seeds. */
export function randomPrefix(shape: ModelShape, length: number, seed: number): KvTensor {
  let state = seed + 1;
  const next = (): number => ((state = (state * 48271) % 2147483647) / 2147483647) * 2 - 1;
  const data = new Float32Array(kvElements(shape, length));
  const values = Float32Array.from({ length: Math.min(data.length, RANDOM_VALUES) }, next);
  for (let at = 0; at < data.length; at += values.length) data.set(values.subarray(0, data.length - at), at);
  return { length, data };
}

/** Not a multiple of any head_dim. */
const RANDOM_VALUES = 50_021;

let requests = 0;

/** A greedy request that runs to its last token. */
export function benchRequest(
  given: Pick<EngineRequest, "promptIds" | "maxNewTokens"> & Partial<EngineRequest>,
): EngineRequest {
  return {
    id: `bench-${requests++}`,
    tenant: "bench",
    prefix: null,
    n: 1,
    beams: null,
    beamStop: null,
    scorePrompt: false,
    sampling: DEFAULT_SAMPLING,
    seed: 0,
    topLogprobs: 0,
    eosIds: [],
    ...given,
  };
}

export function promptIds(length: number, seed: number, vocabSize = 50257): Int32Array {
  return Int32Array.from({ length }, (_, index) => (index * 911 + seed * 7919 + 17) % vocabSize);
}
