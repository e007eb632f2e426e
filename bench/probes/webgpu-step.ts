/**
 * Cost of a decode step on WebGPU: forms of the head, pending dispatches, graph capture.
 *
 *     node --import tsx bench/probes/webgpu-step.ts fp16|fp32 ROWS...
 */
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { ElementType } from "../../src/runtime/ort-api.ts";
import { Runtime, type DeviceTensor, type Session, type Tensor } from "../../src/runtime/session.ts";
import { webgpuSkip } from "../../test/support/devices.ts";
import { CACHE, DEMO, promptIds, sizedCheckpoint } from "../support/gpt2.ts";
import { writeVariant, type Variant } from "./graphs.ts";

const SMOKE = process.env["SMOKE"] === "1";
if (SMOKE) {
  const skip = webgpuSkip();
  if (skip !== false) throw new Error(skip);
}
const [precision = "fp32", ...rest] = process.argv.slice(2);
const half = precision === "fp16";
const N = SMOKE ? 1 : 25;
const median = (a: readonly number[]): number => [...a].sort((x, y) => x - y)[a.length >> 1]!;
const checkpoint = await openCheckpoint(SMOKE ? DEMO : await sizedCheckpoint("gpt2"), { cacheDir: CACHE });
const { config, shape } = checkpoint;
const built = await ensureGraph(checkpoint, CACHE, half ? "fp16" : "fp32", DEVICES.webgpu);
const [V, M] = [shape.vocabSize, shape.positions];
const runtime = new Runtime();
const EP = "ep.webgpuexecutionprovider.";

function mover(type: DataType, to: DataType): Session {
  const graph = new OnnxGraph("move", "");
  graph.input("x", type, ["n"]);
  graph.output("y", to, ["n"]);
  if (type !== to) graph.node("Cast", ["x"], ["y"], { to });
  else {
    graph.constant("zero", type, [1], type === DataType.float ? Float32Array.of(0) : Int32Array.of(0));
    graph.node("Add", ["x", "zero"], ["y"]);
  }
  return runtime.session(graph.encode(), { threads: 1, device: DEVICES.webgpu });
}
const ints = mover(DataType.int32, DataType.int32);
const floats = mover(DataType.float, DataType.float);
const one = (error: unknown): string =>
  String((error as Error).message)
    .replace(/\s+/g, " ")
    .slice(0, 300);

function measure(head: Variant["head"], rows: number, settings: Record<string, string>, capture: boolean): void {
  const name = `${precision} ${head} rows ${rows} ${JSON.stringify(settings)}${capture ? " capture" : ""}`;
  try {
    const path = writeVariant(config, built, { attention: "slots", head, half });
    const entries = Object.fromEntries(
      Object.entries({ ...settings, ...(capture && { enableGraphCapture: "1" }) }).map(([key, value]) => [
        EP + key,
        value,
      ]),
    );
    using s = runtime.session(path, { threads: 1, device: DEVICES.webgpu, config: entries });
    const type = half ? ElementType.float16 : ElementType.float32;
    const kv = Array.from({ length: 2 * shape.layers }, () => s.allocate(type, [rows, shape.heads, M, shape.headDim]));
    const data = {
      input_ids: promptIds(rows, 2, V),
      position_ids: new Int32Array(rows).fill(80),
      seqlens_k: new Int32Array(rows).fill(80),
      total_sequence_length: Int32Array.of(capture ? M : 81),
      output_rows: Int32Array.from({ length: rows }, (_, row) => row),
    };
    const dims: Record<string, number[]> = {
      input_ids: [rows, 1],
      position_ids: [rows, 1],
      seqlens_k: [rows],
      total_sequence_length: [1],
      output_rows: [rows],
    };
    const inputs: Record<string, Tensor> = {};
    const uploads: (() => void)[] = [];
    for (const [key, values] of Object.entries(data)) {
      const host = runtime.tensor(values, dims[key]!);
      if (!capture) {
        inputs[key] = host;
        continue;
      }
      const tensor = s.allocate(ElementType.int32, dims[key]!);
      inputs[key] = tensor;
      const binding = ints.binding({ x: runtime.tensor(values, [values.length]) }, { y: tensor.view([values.length]) });
      uploads.push(() => {
        binding.update("x");
        ints.runNow(binding);
      });
    }
    for (const upload of uploads) upload();
    const past: Record<string, Tensor> = {};
    const present: Record<string, Tensor> = {};
    kv.forEach((tensor, index) => {
      const part = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      past[`past_${part}`] = present[`present_${part}`] = tensor;
    });
    const logits = s.allocate(ElementType.float32, [rows, V]);
    const outputs: Record<string, Tensor> = { logits };
    const top = new Float32Array(rows * 64);
    let topDevice: DeviceTensor | null = null;
    if (head !== "none") {
      const wide = head === "flat";
      if (capture) {
        topDevice = s.allocate(ElementType.float32, [rows, 64]);
        outputs["top_logits"] = topDevice;
        outputs["top_ids"] = s.allocate(wide ? ElementType.int64 : ElementType.int32, [rows, 64]);
        outputs["top_probability"] = s.allocate(ElementType.float32, [rows, 1]);
      } else {
        outputs["top_logits"] = runtime.tensor(top, [rows, 64]);
        outputs["top_ids"] = runtime.tensor(wide ? new BigInt64Array(rows * 64) : new Int32Array(rows * 64), [
          rows,
          64,
        ]);
        outputs["top_probability"] = runtime.tensor(new Float32Array(rows), [rows, 1]);
      }
    }
    const binding = s.binding({ ...inputs, ...past }, { ...outputs, ...present });
    const probe = new Float32Array(1);
    const down =
      topDevice === null
        ? null
        : floats.binding({ x: topDevice.view([rows * 64]) }, { y: runtime.tensor(top, [rows * 64]) });
    const oneLogit = floats.binding({ x: logits.view([1]) }, { y: runtime.tensor(probe, [1]) });
    const times: number[] = [];
    for (let i = SMOKE ? -1 : -5; i < N; i++) {
      const t0 = performance.now();
      if (capture) for (const upload of uploads.slice(0, 3)) upload();
      else binding.update("input_ids", "position_ids", "seqlens_k", "total_sequence_length");
      s.runNow(binding);
      if (down !== null) floats.runNow(down);
      else if (head === "none") floats.runNow(oneLogit);
      if (i >= 0) times.push(performance.now() - t0);
    }
    console.log(
      name,
      "step",
      median(times).toFixed(3),
      "ms",
      ((rows / median(times)) * 1000).toFixed(0),
      "tokens/s; best logit",
      top[0]?.toFixed(4),
    );
    binding[Symbol.dispose]();
    for (const tensor of [...kv, logits]) tensor[Symbol.dispose]();
  } catch (error) {
    console.log(name, "FAILED", one(error));
  }
}

for (const rows of rest.map(Number)) {
  if (SMOKE) {
    measure("levels32", rows, { maxNumPendingDispatches: "1024", validationMode: "disabled" }, true);
    measure("levels32", rows, {}, false);
    continue;
  }
  measure("flat", rows, {}, false);
  measure("levels32", rows, {}, false);
  measure("none", rows, {}, false);
  for (const pending of ["64", "256", "1024"]) measure("levels32", rows, { maxNumPendingDispatches: pending }, false);
  measure("levels32", rows, { maxNumPendingDispatches: "1024", validationMode: "disabled" }, false);
  measure("flat", rows, {}, true);
  measure("levels32", rows, {}, true);
  measure("levels32", rows, { maxNumPendingDispatches: "1024", validationMode: "disabled" }, true);
}
process.exit(0);
