/**
 * Time of each kernel of a decode step on WebGPU, by the device's clock; of some layers in other forms; and of
 * transfers. For whole steps through the runner see phases.ts.
 *
 *     node --import tsx bench/probes/webgpu-kernels.ts [fp16|fp32 ...]
 *
 * Failing parts are reported. SMOKE=1: small, on SwiftShader, which has only fp32.
 */
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import { answerColumns, CANDIDATES } from "../../src/model/gpt2-graph.ts";
import { floatType } from "../../src/model/graph-weights.ts";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { StepInputs } from "../../src/model/step-inputs.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { ElementType } from "../../src/runtime/ort-api.ts";
import { Runtime, type Binding, type Session, type Tensor } from "../../src/runtime/session.ts";
import { webgpuSkip } from "../../test/support/devices.ts";
import { CACHE, promptIds, sizedCheckpoint } from "../support/gpt2.ts";
import { median } from "../support/report.ts";
import { formsGraph, formsOf } from "./webgpu-forms.ts";
import { print, profile } from "./webgpu-profile.ts";

const SMOKE = process.env["SMOKE"] === "1";
if (SMOKE) {
  const skip = webgpuSkip();
  if (skip !== false) throw new Error(skip);
}
const ROWS = SMOKE ? [1, 3] : [1, 8, 32];
const [TIMES, WARM] = SMOKE ? [2, 1] : [21, 4];
const POSITION = 80;
const SELFTEST = new URL("../../models/selftest", import.meta.url).pathname;
const LINES = 30;

const checkpoint = await openCheckpoint(SMOKE ? SELFTEST : await sizedCheckpoint("gpt2"), { cacheDir: CACHE });
const { shape } = checkpoint;
const K = Math.min(CANDIDATES, shape.vocabSize);

function part(name: string, work: () => void): void {
  console.log(name);
  try {
    work();
  } catch (error) {
    console.log(
      `${name} FAILED`,
      String((error as Error).message)
        .replace(/\s+/g, " ")
        .slice(0, 400),
    );
  }
}

const open = (runtime: Runtime, model: string | Uint8Array): Session =>
  runtime.session(model, { threads: 1, device: DEVICES.webgpu });

/** A graph that moves tensors of the given sizes, each separately, as a run's inputs and outputs are. */
function mover(runtime: Runtime, type: DataType, sizes: readonly number[]): Session {
  const graph = new OnnxGraph("move", "");
  graph.constant("zero", type, [1], type === DataType.float ? Float32Array.of(0) : Int32Array.of(0));
  sizes.forEach((size, index) => {
    graph.input(`from.${index}`, type, [size]);
    graph.output(`to.${index}`, type, [size]);
    graph.node("Add", [`from.${index}`, "zero"], [`to.${index}`]);
  });
  return open(runtime, graph.encode());
}

/** Inputs are uploaded when bound, outputs downloaded at the end of a run. */
function transfers(rows: number): void {
  const runtime = new Runtime();
  const named = (side: string, tensors: readonly Tensor[]): Record<string, Tensor> =>
    Object.fromEntries(tensors.map((tensor, index) => [`${side}.${index}`, tensor]));
  const up = (sizes: readonly number[]): (() => void) => {
    const session = mover(runtime, DataType.int32, sizes);
    const binding = session.binding(
      named(
        "from",
        sizes.map((size) => runtime.tensor(new Int32Array(size), [size])),
      ),
      named(
        "to",
        sizes.map((size) => session.allocate(ElementType.int32, [size])),
      ),
    );
    return () => binding.update(...sizes.map((_, index) => `from.${index}`));
  };
  const down = (sizes: readonly number[]): (() => void) => {
    const session = mover(runtime, DataType.float, sizes);
    const binding = session.binding(
      named(
        "from",
        sizes.map((size) => session.allocate(ElementType.float32, [size])),
      ),
      named(
        "to",
        sizes.map((size) => runtime.tensor(new Float32Array(size), [size])),
      ),
    );
    return () => session.runNow(binding);
  };
  const idle = down([1]);
  const works = {
    "four inputs": up([rows, rows, rows, rows]),
    "one input": up([4 * rows]),
    "three answers": down([rows * K, rows * K, rows]),
    "one answer": down([rows * answerColumns(K)]),
  };
  const texts = Object.entries(works).map(([name, work]) => {
    const times: number[] = [];
    for (let time = -WARM; time < TIMES; time++) {
      const began = performance.now();
      work();
      if (time >= 0) times.push(performance.now() - began);
      idle();
    }
    return `${name} ${median(times).toFixed(3)} ms`;
  });
  console.log(`  rows ${rows}: ${texts.join(", ")}`);
}

function decodeStep(runtime: Runtime, session: Session, half: boolean, rows: number): Binding {
  const answers = Math.max(2, rows);
  const inputs = new StepInputs(runtime, true, { rows, length: 1, answers, width: shape.width });
  inputs.ids.set(promptIds(rows, 2, shape.vocabSize));
  inputs.positions.fill(POSITION);
  inputs.lastPositions.fill(POSITION);
  inputs.total[0] = POSITION + 1;
  const given: Record<string, Tensor> = { ...inputs.tensors };
  const made: Record<string, Tensor> = {
    logits: session.allocate(ElementType.float32, [answers, shape.vocabSize]),
    answers: runtime.tensor(new Float32Array(answers * answerColumns(K)), [answers, answerColumns(K)]),
  };
  for (let index = 0; index < 2 * shape.layers; index++) {
    const name = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
    const type = half ? ElementType.float16 : ElementType.float32;
    given[`past_${name}`] = made[`present_${name}`] = session.allocate(type, [
      rows,
      shape.heads,
      shape.positions,
      shape.headDim,
    ]);
  }
  return session.binding(given, made);
}

function kernels(path: string, half: boolean, rows: number): void {
  const runs = TIMES;
  const found = profile(
    (runtime) => {
      using session = open(runtime, path);
      using binding = decodeStep(runtime, session, half, rows);
      for (let run = 0; run < runs; run++) session.runNow(binding);
      for (const tensor of binding.tensors) tensor[Symbol.dispose]();
    },
    runs,
    WARM,
  );
  print(`  rows ${rows}`, found, LINES);
}

/** Weights are zeros, and mostly in the device's cache. */
function forms(half: boolean, rows: number): void {
  const list = formsOf(
    SMOKE ? { width: 64, inner: 192, vocabSize: 500 } : { width: 768, inner: 3072, vocabSize: 50257 },
  );
  const { model, inputs, outputs, formOf } = formsGraph(list, floatType(half ? "fp16" : "fp32"), rows);
  const runs = TIMES;
  const found = profile(
    (runtime) => {
      using session = open(runtime, model);
      const allocated = (dims: Record<string, number[]>): Record<string, Tensor> =>
        Object.fromEntries(
          Object.entries(dims).map(([name, each]) => [
            name,
            session.allocate(half ? ElementType.float16 : ElementType.float32, each),
          ]),
        );
      using binding = session.binding(allocated(inputs), allocated(outputs));
      for (let run = 0; run < runs; run++) session.runNow(binding);
      for (const tensor of binding.tensors) tensor[Symbol.dispose]();
    },
    runs,
    WARM,
  );
  for (const { name } of list) {
    const own = found.kernels.filter(({ node }) => formOf(node) === name);
    const sum = own.reduce((total, { time }) => total + time, 0);
    console.log(
      `  rows ${String(rows).padStart(3)} ${name.padEnd(24)} ${sum.toFixed(1).padStart(8)} us: ${own.map(({ program, time }) => `${program} ${time.toFixed(1)}`).join(", ")}`,
    );
  }
}

part("transfers", () => ROWS.forEach(transfers));
const given = process.argv.slice(2);
for (const precision of given.length > 0 ? given : SMOKE ? ["fp32"] : ["fp16", "fp32"]) {
  const half = precision === "fp16";
  const path = await ensureGraph(checkpoint, CACHE, half ? "fp16" : "fp32", DEVICES.webgpu);
  for (const rows of ROWS) part(`${precision} kernels of a step`, () => kernels(path, half, rows));
  for (const rows of ROWS) part(`${precision} forms of layers`, () => forms(half, rows));
}
process.exit(0);
