/**
 * Reorders and casts a KvTensor's keys and values for the pages, on the device: on the host a prefix of 60 would take 8
 * ms.
 */
import { DataType, OnnxGraph } from "../onnx-writer.ts";
import type { PagedLayout } from "./layout.ts";

/** given f32 [n, heads, length, headDim] -> packed f32|f16 [n, length, heads, headDim] */
export function packGraph({ type, shape: { heads, headDim } }: Pick<PagedLayout, "type" | "shape">): Uint8Array {
  const graph = new OnnxGraph("pack", "");
  graph.input("given", DataType.float, ["n", heads, "length", headDim]);
  graph.output("packed", type, ["n", "length", heads, headDim]);
  const typed = type === DataType.float ? "given" : "halves";
  if (typed !== "given") graph.node("Cast", ["given"], [typed], { to: type });
  graph.node("Transpose", [typed], ["packed"], { perm: [0, 2, 1, 3] });
  return graph.encode();
}
