/**
 * Writes ONNX models: just enough of onnx.proto3 (field numbers from onnx/onnx.proto, IR version 9) for a graph whose
 * weights are in an external data file.
 */

export const DataType = { float: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9, float16: 10 } as const;
export type DataType = (typeof DataType)[keyof typeof DataType];

/** A dimension: a number, or a name for one known only at run time. */
export type Dim = number | string;
export type Attribute = number | string | readonly number[] | { readonly float: number } | OnnxGraph;

/** A weight's range in the external data file, in bytes. */
export interface ExternalRange {
  readonly offset: number;
  readonly length: number;
}

const MS_DOMAIN = "com.microsoft";

/** A protobuf message under construction. */
class Message {
  readonly #parts: Uint8Array[] = [];

  varint(field: number, value: number | bigint): this {
    return this.#raw(varint(BigInt(field) << 3n), varint(BigInt.asUintN(64, BigInt(value))));
  }
  float(field: number, value: number): this {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setFloat32(0, value, true);
    return this.#raw(varint((BigInt(field) << 3n) | 5n), bytes);
  }
  bytes(field: number, value: Uint8Array): this {
    return this.#raw(varint((BigInt(field) << 3n) | 2n), varint(BigInt(value.length)), value);
  }
  string(field: number, value: string): this {
    return this.bytes(field, Buffer.from(value, "utf8"));
  }
  message(field: number, value: Message): this {
    return this.bytes(field, value.encode());
  }
  encode(): Uint8Array {
    return Buffer.concat(this.#parts);
  }
  #raw(...parts: Uint8Array[]): this {
    this.#parts.push(...parts);
    return this;
  }
}

function varint(value: bigint): Uint8Array {
  const out: number[] = [];
  while (value > 127n) {
    out.push(Number(value & 127n) | 128);
    value >>= 7n;
  }
  out.push(Number(value));
  return Uint8Array.from(out);
}

/** Collects nodes, weights, inputs and outputs, then encodes the model. Values are named by strings, as in ONNX. */
export class OnnxGraph {
  readonly #graph = new Message();
  readonly #dataFile: string;
  #nodes = 0;

  /** @param dataFile name of the external data file, relative to the model's folder */
  constructor(name: string, dataFile: string) {
    this.#dataFile = dataFile;
    this.#graph.string(2, name);
  }

  input(name: string, type: DataType, dims: readonly Dim[]): string {
    this.#graph.message(11, valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: DataType, dims: readonly Dim[]): void {
    this.#graph.message(12, valueInfo(name, type, dims));
  }

  /** A weight in the external data file. */
  external(name: string, type: DataType, dims: readonly number[], range: ExternalRange): string {
    const tensor = tensorHeader(name, type, dims).varint(14, 1);
    const entries: [string, string][] = [
      ["location", this.#dataFile],
      ["offset", String(range.offset)],
      ["length", String(range.length)],
    ];
    for (const [key, value] of entries) tensor.message(13, new Message().string(1, key).string(2, value));
    this.#graph.message(5, tensor);
    return name;
  }

  /** A small constant inside the model file; `data` little-endian. */
  constant(name: string, type: DataType, dims: readonly number[], data: ArrayBufferView): string {
    this.#graph.message(
      5,
      tensorHeader(name, type, dims).bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
    );
    return name;
  }

  /** Adds a node. An empty input name is an absent optional input. */
  node(
    op: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Record<string, Attribute> = {},
    domain = "",
  ): void {
    const node = new Message();
    for (const input of inputs) node.string(1, input);
    for (const output of outputs) node.string(2, output);
    node.string(3, `${op}_${this.#nodes++}`).string(4, op);
    for (const [name, value] of Object.entries(attributes)) node.message(5, attribute(name, value));
    if (domain !== "") node.string(7, domain);
    this.#graph.message(1, node);
  }

  /** Adds a node of ONNX Runtime's contrib operators. */
  contrib(
    op: string,
    inputs: readonly string[],
    outputs: readonly string[],
    attributes: Record<string, Attribute> = {},
  ): void {
    this.node(op, inputs, outputs, attributes, MS_DOMAIN);
  }

  /** This graph as a node's attribute. It sees the enclosing graph's values by name. */
  get message(): Message {
    return this.#graph;
  }

  encode(): Uint8Array {
    return new Message()
      .varint(1, 9)
      .string(2, "prefixd")
      .message(7, this.#graph)
      .message(8, new Message().string(1, "").varint(2, 18))
      .message(8, new Message().string(1, MS_DOMAIN).varint(2, 1))
      .encode();
  }
}

function tensorHeader(name: string, type: DataType, dims: readonly number[]): Message {
  const tensor = new Message();
  for (const dim of dims) tensor.varint(1, dim);
  return tensor.varint(2, type).string(8, name);
}

function valueInfo(name: string, type: DataType, dims: readonly Dim[]): Message {
  const shape = new Message();
  for (const dim of dims)
    shape.message(1, typeof dim === "number" ? new Message().varint(1, dim) : new Message().string(2, dim));
  const tensorType = new Message().varint(1, type).message(2, shape);
  return new Message().string(1, name).message(2, new Message().message(1, tensorType));
}

function attribute(name: string, value: Attribute): Message {
  const message = new Message().string(1, name);
  if (typeof value === "string") return message.string(4, value).varint(20, 3);
  if (typeof value === "number") return message.varint(3, value).varint(20, 2);
  if (value instanceof OnnxGraph) return message.message(6, value.message).varint(20, 5);
  if ("float" in value) return message.float(2, value.float).varint(20, 1);
  for (const item of value) message.varint(8, item);
  return message.varint(20, 7);
}
