/** Builds a graph as expressions: an operator returns the name of its value. */
import { DataType, type Attribute, type OnnxGraph } from "./onnx-writer.ts";

type Attributes = Record<string, Attribute>;

export class Expressions {
  readonly graph: OnnxGraph;
  readonly #constants = new Set<string>();
  #values = 0;

  constructor(graph: OnnxGraph) {
    this.graph = graph;
  }

  /** One node with one output. */
  op(operator: string, inputs: readonly string[], attributes: Attributes = {}): string {
    return this.ops(operator, inputs, 1, attributes)[0]!;
  }

  /** One node with several outputs. */
  ops(operator: string, inputs: readonly string[], outputs: number, attributes: Attributes = {}): string[] {
    const names = Array.from({ length: outputs }, () => this.#name());
    this.graph.node(operator, inputs, names, attributes);
    return names;
  }

  /** One node of ONNX Runtime's contrib operators. */
  contrib(operator: string, ...inputs: readonly string[]): string {
    const name = this.#name();
    this.graph.contrib(operator, inputs, [name]);
    return name;
  }

  add(...terms: readonly string[]): string {
    return terms.reduce((sum, term) => this.op("Add", [sum, term]));
  }
  subtract(a: string, b: string): string {
    return this.op("Sub", [a, b]);
  }
  multiply(...factors: readonly string[]): string {
    return factors.reduce((product, factor) => this.op("Mul", [product, factor]));
  }
  matmul(a: string, b: string): string {
    return this.op("MatMul", [a, b]);
  }
  transpose(x: string, ...perm: readonly number[]): string {
    return this.op("Transpose", [x], { perm });
  }
  /** Swaps the last two of four axes. */
  transposed(x: string): string {
    return this.transpose(x, 0, 1, 3, 2);
  }
  /** @param shape the name of a shape, or a constant one */
  reshape(x: string, shape: string | readonly number[]): string {
    return this.op("Reshape", [x, typeof shape === "string" ? shape : this.integers(...shape)]);
  }
  /** Rows (along the first axis) by index. */
  rows(x: string, indices: string): string {
    return this.op("Gather", [x, indices], { axis: 0 });
  }
  /** Reduces one axis, which stays with size 1. */
  reduce(operator: "ReduceSum" | "ReduceMean" | "ReduceMax", x: string, axis: number): string {
    return this.op(operator, [x, this.integers(axis)], { keepdims: 1 });
  }
  /** The slice `index` of an axis, which is dropped. */
  select(x: string, axis: number, index: number): string {
    const one = this.op("Slice", [x, this.integers(index), this.integers(index + 1), this.integers(axis)]);
    return this.op("Squeeze", [one, this.integers(axis)]);
  }
  /** Stacks along a new first axis. */
  stack(parts: readonly string[]): string {
    return this.op(
      "Concat",
      parts.map((part) => this.op("Unsqueeze", [part, this.integers(0)])),
      { axis: 0 },
    );
  }

  /** A constant int64 vector. */
  integers(...values: readonly number[]): string {
    return this.#once(`int_${values.join("_")}`, (name) =>
      this.graph.constant(name, DataType.int64, [values.length], BigInt64Array.from(values, BigInt)),
    );
  }
  /** A constant fp32 scalar. */
  number(value: number): string {
    return this.#once(`float_${value}`, (name) =>
      this.graph.constant(name, DataType.float, [], Float32Array.of(value)),
    );
  }
  /** A constant fp32 `[1, width]` of zeros. */
  zeros(width: number): string {
    return this.#once(`zeros_${width}`, (name) =>
      this.graph.constant(name, DataType.float, [1, width], new Float32Array(width)),
    );
  }

  #once(name: string, declare: (name: string) => void): string {
    if (!this.#constants.has(name)) declare(name);
    this.#constants.add(name);
    return name;
  }

  #name(): string {
    return `value_${this.#values++}`;
  }
}
