/** Training on the models of test/golden. */
import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { decodeFloats, parseSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { openCheckpoint, type Gpt2Config } from "../../src/model/checkpoint.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import type { TrainSequence } from "../../src/model/train-batch.ts";
import { TrainStep, type TrainStepOptions } from "../../src/model/train-step.ts";
import type { Runtime } from "../../src/runtime/session.ts";
import { goldenDir } from "./model.ts";

export const TRAINING_GOLDEN = new URL("../golden/training/", import.meta.url).pathname;

/** A row of the golden data: ids of prompt and completion. */
export type GoldenRow = readonly [prompt: readonly number[], completion: readonly number[]];

/** A golden JSON file, and the tensors beside it. */
export function goldenTraining<T>(name: "gradients" | "curves"): {
  document: T;
  tensor: (name: string) => Float32Array;
} {
  const bytes = readFileSync(join(TRAINING_GOLDEN, `${name}.safetensors`));
  const { tensors } = parseSafetensorsHeader(bytes, bytes.length, { maxHeaderBytes: bytes.length });
  return {
    document: JSON.parse(readFileSync(join(TRAINING_GOLDEN, `${name}.json`), "utf8")) as T,
    tensor: (name) => {
      const { dtype, start, end } = tensors.get(name)!;
      return decodeFloats(dtype, bytes.subarray(start, end));
    },
  };
}

/** The completion is learned. */
export const sequenceOf = ([prompt, completion]: GoldenRow): TrainSequence => ({
  ids: Int32Array.from([...prompt, ...completion]),
  firstTarget: prompt.length,
  endTarget: prompt.length + completion.length,
});

/** Calls `use` with a training step on a golden model. */
export async function withStep<T>(
  runtime: Runtime,
  model: string,
  options: Pick<TrainStepOptions, "kind" | "virtualTokens"> & Partial<TrainStepOptions>,
  use: (step: TrainStep, config: Gpt2Config) => Promise<T>,
): Promise<T> {
  const cache = await mkdtemp(join(tmpdir(), "prefixd-train-"));
  const checkpoint = await openCheckpoint(goldenDir(model));
  try {
    const folder = dirname(await ensureGraph(checkpoint, cache, "fp32"));
    using step = new TrainStep(runtime, { config: checkpoint.config, folder, threads: 1, ...options });
    return await use(step, checkpoint.config);
  } finally {
    await checkpoint.close();
    await rm(cache, { recursive: true });
  }
}

/** |a - b| / |b|, as vectors. */
export function relativeError(a: Float32Array, b: Float32Array): number {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    difference += (a[i]! - b[i]!) ** 2;
    size += b[i]! ** 2;
  }
  return Math.sqrt(difference / size);
}

export const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
