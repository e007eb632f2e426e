/** Small ONNX models for tests of the runtime and of the writer. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";

/** Writes a model and returns its path. */
export function writeModel(dir: string, name: string, build: (graph: OnnxGraph) => void): string {
  const graph = new OnnxGraph(name, `${name}.bin`);
  build(graph);
  const path = join(dir, `${name}.onnx`);
  writeFileSync(path, graph.encode());
  return path;
}

/** sum = a + b, all f32 [rows, 2]. */
export function addModel(dir: string): string {
  return writeModel(dir, "add", (graph) => {
    graph.input("a", DataType.float, ["rows", 2]);
    graph.input("b", DataType.float, ["rows", 2]);
    graph.node("Add", ["a", "b"], ["sum"]);
    graph.output("sum", DataType.float, ["rows", 2]);
  });
}

/** y = x * x * ... (`times` products), f32 [size, size]: takes a while. */
export function slowModel(dir: string, size: number, times: number): string {
  return writeModel(dir, "slow", (graph) => {
    graph.input("x", DataType.float, [size, size]);
    for (let i = 0; i < times; i++)
      graph.node("MatMul", [i === 0 ? "x" : `y${i - 1}`, "x"], [i === times - 1 ? "y" : `y${i}`]);
    graph.output("y", DataType.float, [size, size]);
  });
}
