/**
 * The KV cache over pages: per layer a key and a value tensor `[blocks, block, heads, headDim]`, all in one piece of
 * memory. A row has `columns` blocks in a run, so that a token's keys of all heads are one strip of `tokenBytes`, a
 * row's tokens follow each other, and the same tokens of all `2 * layers` tensors are strips at one pitch:
 *
 *     key.0    | row 0: t0 t1 t2 ... | row 1: t0 t1 ... | ...      <- tensorBytes ->
 *     value.0  | row 0: t0 t1 t2 ... | row 1: t0 t1 ... | ...
 *     key.1    ...
 */
import type { ModelShape } from "../../kv.ts";
import { ElementType } from "../../runtime/ort-api.ts";
import { float16Values } from "../../formats/float16.ts";
import type { FloatType } from "../graph-weights.ts";

/** Tokens of a block: ONNX Runtime's flash attention over pages takes multiples of 256. */
export const BLOCK = 256;

export interface PagedLayout {
  readonly shape: ModelShape;
  readonly type: FloatType;
  /** All rows, including those of no sequence. */
  readonly rows: number;
  /** Blocks per row. */
  readonly columns: number;
  /** Positions per row, a multiple of BLOCK. */
  readonly capacity: number;
  readonly tensors: number;
  readonly tokenBytes: number;
  readonly rowBytes: number;
  readonly tensorBytes: number;
}

export function pagedLayout(shape: ModelShape, type: FloatType, rows: number): PagedLayout {
  const columns = Math.ceil(shape.positions / BLOCK);
  const capacity = columns * BLOCK;
  const tokenBytes = shape.width * (type === ElementType.float16 ? 2 : 4);
  const rowBytes = capacity * tokenBytes;
  return {
    shape,
    type,
    rows,
    columns,
    capacity,
    tensors: 2 * shape.layers,
    tokenBytes,
    rowBytes,
    tensorBytes: rows * rowBytes,
  };
}

/**
 * Reorders the cache's `[n, length, heads, headDim]` into a KvTensor's fp32 `[n, heads, length, headDim]`. `bytes` must
 * be aligned to 4.
 */
export function unpackTokens(
  { shape, type, tokenBytes }: PagedLayout,
  bytes: Uint8Array,
  length: number,
): Float32Array {
  const { width, headDim } = shape;
  const elements = (bytes.length / tokenBytes) * width;
  const isHalf = type === ElementType.float16;
  const packed = isHalf
    ? new Uint16Array(bytes.buffer, bytes.byteOffset, elements)
    : new Float32Array(bytes.buffer, bytes.byteOffset, elements);
  const values = float16Values();
  const unpacked = new Float32Array(elements);
  const tensor = length * width;
  for (let from = 0; from < elements; from += headDim) {
    const token = Math.floor((from % tensor) / width);
    const head = (from % width) / headDim;
    const to = Math.floor(from / tensor) * tensor + (head * length + token) * headDim;
    // Converts while reordering: a second pass over strided data would cost as much again.
    if (isHalf) for (let i = 0; i < headDim; i++) unpacked[to + i] = values[packed[from + i]!]!;
    else for (let i = 0; i < headDim; i++) unpacked[to + i] = packed[from + i]!;
  }
  return unpacked;
}
