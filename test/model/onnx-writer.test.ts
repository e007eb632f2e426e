import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { Runtime, type TensorData } from "../../src/runtime/session.ts";
import { all, decode, messages, text } from "../support/protobuf.ts";
import { writeModel } from "../support/tiny-model.ts";

const dir = t.testdir();
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

t.test("the fields are those of onnx.proto3", async (t) => {
  const graph = new OnnxGraph("name", "data.bin");
  graph.input("x", DataType.float, ["batch", 300]);
  graph.output("y", DataType.int64, [1]);
  graph.external("w", DataType.float, [300, 2], { offset: 4096, length: 2400 });
  graph.constant("c", DataType.int64, [1], BigInt64Array.of(-1n));
  graph.node("Op", ["x", "", "w"], ["y"], { int: -2, big: 300, float: { float: 0.5 }, text: "é", list: [1, -1] });
  graph.contrib("Other", ["x"], ["z", "", "q"]);

  const model = decode(graph.encode());
  t.same(all(model, 1), [9n], "ir_version");
  t.same(
    messages(model, 8).map((opset) => [text(opset, 1)[0], all(opset, 2)[0]]),
    [
      ["", 18n],
      ["com.microsoft", 1n],
    ],
  );
  const [main] = messages(model, 7);
  t.same(text(main!, 2), ["name"]);

  const [op, other] = messages(main!, 1);
  t.same(
    [text(op!, 1), text(op!, 2), text(op!, 4), text(op!, 7)],
    [["x", "", "w"], ["y"], ["Op"], []],
    "an absent input keeps its place",
  );
  t.same([text(other!, 2), text(other!, 7)], [["z", "", "q"], ["com.microsoft"]]);
  t.not(text(op!, 3)[0], text(other!, 3)[0], "nodes have names of their own");
  const attributes = new Map(messages(op!, 5).map((attribute) => [text(attribute, 1)[0], attribute]));
  // AttributeType: FLOAT 1, INT 2, STRING 3, INTS 7.
  t.same(
    [all(attributes.get("int")!, 3), all(attributes.get("int")!, 20)],
    [[2n ** 64n - 2n], [2n]],
    "-2 in two's complement",
  );
  t.same(all(attributes.get("big")!, 3), [300n]);
  t.same(
    [Buffer.from(all(attributes.get("float")!, 2)[0] as Uint8Array).readFloatLE(), all(attributes.get("float")!, 20)],
    [0.5, [1n]],
  );
  t.same([text(attributes.get("text")!, 4), all(attributes.get("text")!, 20)], [["é"], [3n]]);
  t.same([all(attributes.get("list")!, 8), all(attributes.get("list")!, 20)], [[1n, 2n ** 64n - 1n], [7n]]);

  const [external, constant] = messages(main!, 5);
  t.same(
    [all(external!, 1), all(external!, 2), text(external!, 8), all(external!, 14)],
    [[300n, 2n], [1n], ["w"], [1n]],
  );
  t.same(
    messages(external!, 13).map((entry) => [text(entry, 1)[0], text(entry, 2)[0]]),
    [
      ["location", "data.bin"],
      ["offset", "4096"],
      ["length", "2400"],
    ],
  );
  t.same([all(constant!, 2), [...(all(constant!, 9)[0] as Uint8Array)]], [[7n], Array<number>(8).fill(255)]);
  const [input] = messages(main!, 11);
  const dims = messages(messages(messages(messages(input!, 2)[0]!, 1)[0]!, 2)[0]!, 1);
  t.same([text(dims[0]!, 2), all(dims[1]!, 1)], [["batch"], [300n]], "a named dimension, a fixed one");
});

t.test("a non-integer attribute must be marked as a float", async (t) => {
  t.throws(() => new OnnxGraph("g", "d").node("Op", [], [], { epsilon: 1e-5 }), RangeError);
});

/** Runs a model once. */
async function run(
  path: string,
  inputs: Record<string, [TensorData, readonly number[]]>,
  output: TensorData,
  shape: readonly number[],
): Promise<number[]> {
  using session = runtime.session(path, { threads: 1 });
  const tensors = Object.fromEntries(
    Object.entries(inputs).map(([name, [data, dims]]) => [name, runtime.tensor(data, dims)]),
  );
  using y = runtime.tensor(output, shape);
  using binding = session.binding(tensors, { y });
  await session.run(binding);
  for (const tensor of Object.values(tensors)) tensor[Symbol.dispose]();
  return Array.from(output, Number);
}

t.test("ONNX Runtime reads weights from the data file at their offsets", async (t) => {
  const weights = Float32Array.of(9, 9, 1, 2, 3, 4, 5, 6);
  writeFileSync(join(dir, "weights.bin"), weights);
  const path = writeModel(dir, "weights", (graph) => {
    graph.input("x", DataType.float, ["rows", 2]);
    graph.external("w", DataType.float, [2, 3], { offset: 8, length: 24 });
    graph.node("MatMul", ["x", "w"], ["y"]);
    graph.output("y", DataType.float, ["rows", 3]);
  });
  t.same(
    await run(path, { x: [Float32Array.of(1, 0, 10, 1), [2, 2]] }, new Float32Array(6), [2, 3]),
    [1, 2, 3, 14, 25, 36],
  );
});

t.test("attributes, constants and absent inputs mean what they should", async (t) => {
  const concat = writeModel(dir, "concat", (graph) => {
    graph.input("x", DataType.float, [2, 1]);
    graph.constant("c", DataType.float, [2, 1], Float32Array.of(7, 8));
    graph.node("Concat", ["x", "c"], ["y"], { axis: -1 });
    graph.output("y", DataType.float, [2, 2]);
  });
  t.same(await run(concat, { x: [Float32Array.of(1, 2), [2, 1]] }, new Float32Array(4), [2, 2]), [1, 7, 2, 8]);
  const transpose = writeModel(dir, "transpose", (graph) => {
    graph.input("x", DataType.int32, [1, 2, 3]);
    graph.node("Transpose", ["x"], ["y"], { perm: [2, 0, 1] });
    graph.output("y", DataType.int32, [3, 1, 2]);
  });
  t.same(
    await run(transpose, { x: [Int32Array.of(1, 2, 3, 4, 5, 6), [1, 2, 3]] }, new Int32Array(6), [3, 1, 2]),
    [1, 4, 2, 5, 3, 6],
  );
  const leaky = writeModel(dir, "leaky", (graph) => {
    graph.input("x", DataType.float, [2]);
    graph.node("LeakyRelu", ["x"], ["y"], { alpha: { float: 0.25 } });
    graph.output("y", DataType.float, [2]);
  });
  t.same(await run(leaky, { x: [Float32Array.of(-4, 4), [2]] }, new Float32Array(2), [2]), [-1, 4]);
  const clip = writeModel(dir, "clip", (graph) => {
    graph.input("x", DataType.float, [3]);
    graph.constant("max", DataType.float, [], Float32Array.of(2));
    graph.node("Clip", ["x", "", "max"], ["y"]);
    graph.output("y", DataType.float, [3]);
  });
  t.same(await run(clip, { x: [Float32Array.of(-9, 1, 9), [3]] }, new Float32Array(3), [3]), [-9, 1, 2]);
  const pad = writeModel(dir, "pad", (graph) => {
    graph.input("x", DataType.float, [2]);
    graph.constant("pads", DataType.int64, [2], BigInt64Array.of(1n, 1n));
    graph.node("Pad", ["x", "pads"], ["y"], { mode: "reflect" });
    graph.output("y", DataType.float, [4]);
  });
  t.same(await run(pad, { x: [Float32Array.of(1, 2), [2]] }, new Float32Array(4), [4]), [2, 1, 2, 1]);
  const contrib = writeModel(dir, "gelu", (graph) => {
    graph.input("x", DataType.float, [1]);
    graph.contrib("FastGelu", ["x"], ["y"]);
    graph.output("y", DataType.float, [1]);
  });
  t.same(await run(contrib, { x: [Float32Array.of(0), [1]] }, new Float32Array(1), [1]), [0]);
});
