/** The updates of peft_training.py, by what `prefixd train` runs. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { TrainModel } from "../../src/model/train-model.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { AdamW, clipFactor, gradientNorm } from "../../src/training/optimizer.ts";
import { rawValues } from "../../src/training/parametrisation.ts";
import { prefixIn } from "../support/demo-tasks.ts";

interface Request {
  readonly rate: number;
  readonly clip: number;
  /** Length of the prompt, and ids. */
  readonly rows: readonly (readonly [number, readonly number[]])[];
}

const [base, adapter, threads, packed] = process.argv.slice(2) as [string, string, string, string?];
const graphs = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
process.once("exit", () => rmSync(graphs, { recursive: true }));
using runtime = new Runtime();
const checkpoint = await openCheckpoint(base);
const prefix = prefixIn(adapter, checkpoint);
using model = await TrainModel.open(runtime, checkpoint, {
  kind: "prefix",
  virtualTokens: prefix.length,
  hidden: null,
  threads: Number(threads),
  graphs,
  packWeights: packed === "packed",
});
const parametrisation = rawValues(model.step);
const parameters = [...parametrisation.parameters.values()];
parameters[0]!.values.set(prefix.data);
const optimizer = new AdamW(parameters);

for await (const line of createInterface({ input: process.stdin })) {
  const { rate, clip, rows } = JSON.parse(line) as Request;
  const sequences = rows.map(([firstTarget, ids]) => ({
    ids: Int32Array.from(ids),
    firstTarget,
    endTarget: ids.length,
  }));
  const began = performance.now();
  parametrisation.forward();
  const { nll } = await model.step.run([sequences]);
  optimizer.update(rate, clipFactor(gradientNorm(parameters), clip));
  const ms = performance.now() - began;
  const loss = nll.reduce((sum, value) => sum + value, 0) / nll.length;
  console.log(JSON.stringify({ loss, ms, peak_bytes: peakBytes() }));
}
await checkpoint.close();

function peakBytes(): number {
  return 1024 * Number(/VmHWM:\s*(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]);
}
