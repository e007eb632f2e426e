/**
 * Small graphs that copy keys and values within device memory, which only kernels can address. Each gathers vectors of
 * `headDim` numbers from one tensor and scatters them into another in place (output and input share memory). Tensors
 * are viewed as lists of vectors `[n, headDim]`, indexed by `from_at` int32 [n] and `to_at` int64 [n, 1].
 */
import type { ModelShape } from "../kv.ts";
import type { FloatType } from "./graph-weights.ts";
import { DataType, OnnxGraph } from "./onnx-writer.ts";

type CacheShape = Pick<ModelShape, "layers" | "heads" | "headDim">;

/** from.{i}, to.{i} -> moved.{i} for each of the `2 * layers` tensors: copies one row to another. */
export function copyGraph(type: FloatType, { layers, headDim }: CacheShape): Uint8Array {
  const graph = new OnnxGraph("copy", "");
  indexInputs(graph);
  for (let index = 0; index < 2 * layers; index++) {
    graph.input(`from.${index}`, type, ["from", headDim]);
    graph.node("Gather", [`from.${index}`, "from_at"], [`vectors.${index}`], { axis: 0 });
    scatter(graph, type, headDim, index);
  }
  return graph.encode();
}

/**
 * bank, to.{i} -> moved.{i}: copies vectors `from_at + i * heads` of the bank into tensor i, to load a prefix into a
 * row.
 */
export function loadGraph(type: FloatType, { layers, heads, headDim }: CacheShape): Uint8Array {
  const graph = new OnnxGraph("load", "");
  indexInputs(graph);
  graph.input("bank", type, ["bank", headDim]);
  for (let index = 0; index < 2 * layers; index++) {
    graph.constant(`first.${index}`, DataType.int32, [1], Int32Array.of(index * heads));
    graph.node("Add", ["from_at", `first.${index}`], [`from_at.${index}`]);
    graph.node("Gather", ["bank", `from_at.${index}`], [`vectors.${index}`], { axis: 0 });
    scatter(graph, type, headDim, index);
  }
  return graph.encode();
}

/** vectors f32 [n, headDim], bank -> stored: writes vectors into the bank. */
export function storeGraph(type: FloatType, { headDim }: CacheShape): Uint8Array {
  const graph = new OnnxGraph("store", "");
  graph.input("vectors", DataType.float, ["n", headDim]);
  graph.input("to_at", DataType.int64, ["n", 1]);
  graph.input("bank", type, ["bank", headDim]);
  graph.output("stored", type, ["bank", headDim]);
  const vectors = type === DataType.float ? "vectors" : "vectors_half";
  if (vectors !== "vectors") graph.node("Cast", ["vectors"], [vectors], { to: type });
  graph.node("ScatterND", ["bank", "to_at", vectors], ["stored"]);
  return graph.encode();
}

/** from.{i} -> read.{i} f32 [n, headDim]: reads a row back to the host as fp32. */
export function readGraph(type: FloatType, { layers, headDim }: CacheShape): Uint8Array {
  const graph = new OnnxGraph("read", "");
  graph.input("from_at", DataType.int32, ["n"]);
  for (let index = 0; index < 2 * layers; index++) {
    graph.input(`from.${index}`, type, ["from", headDim]);
    graph.output(`read.${index}`, DataType.float, ["n", headDim]);
    const vectors = type === DataType.float ? `read.${index}` : `vectors.${index}`;
    graph.node("Gather", [`from.${index}`, "from_at"], [vectors], { axis: 0 });
    if (type !== DataType.float) graph.node("Cast", [vectors], [`read.${index}`], { to: DataType.float });
  }
  return graph.encode();
}

/** logits f32 [k, vocabSize], row int32 [1] -> picked f32 [1, vocabSize]. */
export function pickGraph(vocabSize: number): Uint8Array {
  const graph = new OnnxGraph("pick", "");
  graph.input("logits", DataType.float, ["k", vocabSize]);
  graph.input("row", DataType.int32, [1]);
  graph.output("picked", DataType.float, [1, vocabSize]);
  graph.node("Gather", ["logits", "row"], ["picked"], { axis: 0 });
  return graph.encode();
}

function indexInputs(graph: OnnxGraph): void {
  graph.input("from_at", DataType.int32, ["n"]);
  graph.input("to_at", DataType.int64, ["n", 1]);
}

function scatter(graph: OnnxGraph, type: FloatType, headDim: number, index: number): void {
  graph.input(`to.${index}`, type, ["to", headDim]);
  graph.output(`moved.${index}`, type, ["to", headDim]);
  graph.node("ScatterND", [`to.${index}`, "to_at", `vectors.${index}`], [`moved.${index}`]);
}
