/** A runner on a checkpoint, and exact comparison of what its steps answer. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { StepOutput } from "../../src/engine/runner.ts";
import { openCheckpoint, type Checkpoint } from "../../src/model/checkpoint.ts";
import { openRunner, type LocalRunner } from "../../src/model/open-runner.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import type { Precision } from "../../src/model/graph-weights.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { seededRandom } from "../support/model.ts";

export interface RunnerFixture {
  readonly checkpoint: Checkpoint;
  readonly runtime: Runtime;
  readonly runner: LocalRunner;
  /** Seeded token ids. */
  readonly ids: (length: number, seed: number) => Int32Array;
  close(): Promise<void>;
}

export interface RunnerFixtureOptions {
  readonly threads?: number;
  readonly device?: Device;
  readonly precision?: Precision;
  readonly bankBytes?: number;
  readonly leastRows?: number;
  readonly batchInvariant?: boolean;
  /** Default: a new one, closed with the fixture. */
  readonly runtime?: Runtime;
}

export async function openFixture(
  dir: string,
  slots: number,
  {
    threads = 2,
    device = DEVICES.cpu,
    precision = "fp32",
    bankBytes = 0,
    runtime = new Runtime(),
    ...others
  }: RunnerFixtureOptions = {},
): Promise<RunnerFixture> {
  const cache = await mkdtemp(join(tmpdir(), "prefixd-runner-"));
  const checkpoint = await openCheckpoint(dir);
  const close = async (): Promise<void> => {
    runtime[Symbol.dispose]();
    await checkpoint.close();
    await rm(cache, { recursive: true });
  };
  const runner = await openRunner(runtime, {
    modelPath: await ensureGraph(checkpoint, cache, precision, device),
    shape: checkpoint.shape,
    slots,
    threads,
    // Test files run beside each other: a thread that spins takes another's processor.
    spinTime: 0,
    device,
    precision,
    bankBytes,
    ...others,
  }).catch(async (error: unknown) => {
    await close();
    throw error;
  });
  return {
    checkpoint,
    runtime,
    runner,
    ids: (length, seed) => {
      const random = seededRandom(seed);
      return Int32Array.from({ length }, () => Math.floor(random() * checkpoint.shape.vocabSize));
    },
    async close() {
      await runner.close();
      await close();
    },
  };
}

/** One row of a step, copied out of the runner's buffers. */
export interface Row {
  readonly topIds: number[];
  readonly topLogits: number[];
  readonly logSumExp: number;
  readonly logits: Float32Array;
}

export function rowOf(output: StepOutput, row = 0): Row {
  const [from, to] = [row * output.candidates, (row + 1) * output.candidates];
  return {
    topIds: [...output.topIds.subarray(from, to)],
    topLogits: [...output.topLogits.subarray(from, to)],
    logSumExp: output.logSumExp[row]!,
    logits: output.logits(row).slice(),
  };
}

/** How many numbers of two rows are not the same bits. */
export function differingBits(a: Row, b: Row): number {
  let count = a.logSumExp === b.logSumExp ? 0 : 1;
  a.topIds.forEach((id, i) => (count += id === b.topIds[i] ? 0 : 1));
  a.topLogits.forEach((logit, i) => (count += logit === b.topLogits[i] ? 0 : 1));
  a.logits.forEach((logit, i) => (count += logit === b.logits[i] ? 0 : 1));
  return count;
}

/** The largest difference between two rows' logits and log-sum-exps. */
export function distance(a: Row, b: Row): number {
  let largest = Math.abs(a.logSumExp - b.logSumExp);
  a.logits.forEach((logit, i) => (largest = Math.max(largest, Math.abs(logit - b.logits[i]!))));
  return largest;
}
