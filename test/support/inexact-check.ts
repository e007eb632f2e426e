/** Simulates a processor whose kernels do not multiply 8-bit integers exactly. */
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";

/**
 * Replaces the check of src/model/integer-kernels.ts: the same inputs and outputs, but every sum is a third of its
 * row's.
 */
export function inexactCheck(): Uint8Array {
  const [inputs, outputs] = [512, 48];
  const graph = new OnnxGraph("inexact", "");
  graph.input("x", DataType.float, ["rows", inputs]);
  graph.input("asked", DataType.int32, [1]);
  graph.constant(
    "weights",
    DataType.float,
    [inputs, outputs],
    new Float32Array(inputs * outputs).fill((127 * 127) / 3),
  );
  for (const output of ["plain", "inner"]) {
    graph.node("MatMul", ["x", "weights"], [output]);
    graph.output(output, DataType.float, ["rows", outputs]);
  }
  graph.node("Identity", ["asked"], ["unused"]);
  return graph.encode();
}
