/** Alternative forms of a decode step's layers on WebGPU, each as a piece of graph. */
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";

type Dims = readonly (number | "rows")[];

export interface Form {
  readonly name: string;
  readonly inputs: Readonly<Record<string, Dims>>;
  readonly output: Dims;
  readonly build: (graph: OnnxGraph, out: string) => void;
}

class CountingGraph extends OnnxGraph {
  nodes = 0;
  override node(...args: Parameters<OnnxGraph["node"]>): void {
    this.nodes++;
    super.node(...args);
  }
}

/**
 * All forms in one graph, each with its own inputs, since equal nodes with equal inputs would be merged. Returns the
 * tensors' dimensions, and which form a node belongs to.
 */
export function formsGraph(
  forms: readonly Form[],
  type: DataType,
  rows: number,
): {
  model: Uint8Array;
  inputs: Record<string, number[]>;
  outputs: Record<string, number[]>;
  formOf: (node: string) => string | undefined;
} {
  const graph = new CountingGraph("forms", "");
  const [inputs, outputs]: [Record<string, number[]>, Record<string, number[]>] = [{}, {}];
  const ends: { name: string; end: number }[] = [];
  const sized = (dims: Dims): number[] => dims.map((dim) => (dim === "rows" ? rows : dim));
  for (const form of forms) {
    for (const [name, dims] of Object.entries(form.inputs)) inputs[name] ??= sized(dims);
    outputs[form.name] = sized(form.output);
    form.build(graph, form.name);
    ends.push({ name: form.name, end: graph.nodes });
  }
  for (const [name, dims] of Object.entries(inputs)) graph.input(name, type, dims);
  for (const [name, dims] of Object.entries(outputs)) graph.output(name, type, dims);
  return {
    model: graph.encode(),
    inputs,
    outputs,
    formOf: (node) => ends.find(({ end }) => Number(/_(\d+)/.exec(node)?.[1] ?? NaN) < end)?.name,
  };
}

export interface Sizes {
  readonly width: number;
  readonly inner: number;
  readonly vocabSize: number;
}

export function formsOf({ width, inner, vocabSize }: Sizes): Form[] {
  const layers: [string, number, number][] = [
    ["qkv", width, 3 * width],
    ["mlp", inner, width],
  ];
  return [
    ...layers.flatMap(([layer, inputs, outputs]) => [
      whole(layer, inputs, outputs),
      ...[96, 192].filter((size) => inputs % size === 0).map((size) => inParts(layer, inputs, outputs, size)),
    ]),
    ...heads(width, vocabSize),
  ];
}

const ints = (graph: OnnxGraph, name: string, values: readonly number[]): string =>
  graph.constant(name, DataType.int64, [values.length], BigInt64Array.from(values, BigInt));

function whole(layer: string, inputs: number, outputs: number): Form {
  const name = `${layer} whole`;
  return {
    name,
    inputs: { [`${name}.x`]: ["rows", inputs], [`${name}.w`]: [inputs, outputs] },
    output: ["rows", outputs],
    build: (graph, out) => graph.node("MatMul", [`${name}.x`, `${name}.w`], [out]),
  };
}

/** As in src/model/linear.ts. */
function inParts(layer: string, inputs: number, outputs: number, size: number): Form {
  const parts = inputs / size;
  const name = `${layer} in parts of ${size}`;
  return {
    name,
    inputs: { [`${name}.x`]: ["rows", inputs], [`${name}.w`]: [parts, size, outputs], [`ones.${parts}`]: [1, parts] },
    output: ["rows", outputs],
    build(graph, out) {
      graph.node("Reshape", [`${name}.x`, ints(graph, `${out}.shape`, [-1, parts, size])], [`${out}.cut`]);
      graph.node("Transpose", [`${out}.cut`], [`${out}.by_part`], { perm: [1, 0, 2] });
      graph.node("MatMul", [`${out}.by_part`, `${name}.w`], [`${out}.parts`]);
      graph.node("Reshape", [`${out}.parts`, ints(graph, `${out}.terms`, [parts, -1])], [`${out}.flat`]);
      graph.node("MatMul", [`ones.${parts}`, `${out}.flat`], [`${out}.sum`]);
      graph.node("Reshape", [`${out}.sum`, ints(graph, `${out}.back`, [-1, outputs])], [out]);
    },
  };
}

/**
 * Of the last two, the first needs another copy of the embeddings, [width, vocabulary]; the second uses them as they
 * are.
 */
function heads(width: number, vocabSize: number): Form[] {
  const padded = Math.ceil(vocabSize / 64) * 64;
  const form = (
    name: string,
    columns: number,
    weight: readonly number[],
    build: (graph: OnnxGraph, x: string, w: string, out: string) => void,
  ): Form => {
    const [x, w] = [`head ${name}.x`, `head.w${weight.join("x")}`];
    return {
      name: `head ${name}`,
      inputs: { [x]: ["rows", width], [w]: weight },
      output: ["rows", columns],
      build: (graph, out) => build(graph, x, w, out),
    };
  };
  return [
    form("gemm", vocabSize, [vocabSize, width], (graph, x, w, out) => graph.node("Gemm", [x, w], [out], { transB: 1 })),
    form("matmul, padded", padded, [width, padded], (graph, x, w, out) => graph.node("MatMul", [x, w], [out])),
    form("exchanged", vocabSize, [vocabSize, width], (graph, x, w, out) => {
      graph.node("Transpose", [x], [`${out}.across`], { perm: [1, 0] });
      graph.node("MatMul", [w, `${out}.across`], [`${out}.by_id`]);
      graph.node("Transpose", [`${out}.by_id`], [out], { perm: [1, 0] });
    }),
  ];
}
