/** A subgraph that runs only when a condition holds. */
import type { DataType, Dim } from "./onnx-writer.ts";
import { OnnxGraph } from "./onnx-writer.ts";

export interface PartOutput {
  readonly name: string;
  readonly type: DataType;
  /** Columns after the row dimension. */
  readonly dims: number;
}

/**
 * Where `condition` (bool [1]) holds, runs `part` for `outputs`, `[rows, dims]` each, which it names `at` + name.
 * Elsewhere the outputs have no rows.
 */
export function skippablePart(
  graph: OnnxGraph,
  condition: string,
  part: OnnxGraph,
  at: string,
  rows: Dim,
  outputs: readonly PartOutput[],
): void {
  const nothing = new OnnxGraph("nothing", "");
  for (const { name, type, dims } of outputs) {
    part.output(`${at}${name}`, type, [rows, dims]);
    nothing.constant(`no_${name}`, type, [0, dims], new Uint8Array());
    nothing.node("Identity", [`no_${name}`], [`nothing.${name}`]);
    nothing.output(`nothing.${name}`, type, [rows, dims]);
  }
  graph.node(
    "If",
    [condition],
    outputs.map(({ name }) => name),
    { then_branch: part, else_branch: nothing },
  );
}
