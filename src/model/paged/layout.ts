/**
 * The KV cache over pages: per layer a key and a value tensor `[blocks, block, heads, headDim]`, all in one piece of memory. A row has
 * `columns` blocks in a run, so that a token's keys of all heads are one strip of `tokenBytes`, a row's tokens follow each other, and the
 * same tokens of all `2 * layers` tensors are strips at one pitch:
 *
 *     key.0    | row 0: t0 t1 t2 ... | row 1: t0 t1 ... | ...      <- tensorBytes ->
 *     value.0  | row 0: t0 t1 t2 ... | row 1: t0 t1 ... | ...
 *     key.1    ...
 */
import type { KvTensor, ModelShape } from "../../kv.ts";
import { ElementType } from "../../runtime/ort-api.ts";
import { fromFloat16, toFloat16 } from "../float16.ts";
import type { FloatType } from "../graph-weights.ts";

/** Tokens of a block: ONNX Runtime's flash attention over pages takes multiples of 256. */
export const BLOCK = 256;

export interface PagedLayout {
  readonly shape: ModelShape;
  readonly type: FloatType;
  /** Rows, those included that are no sequence's. */
  readonly rows: number;
  /** Blocks of a row. */
  readonly columns: number;
  /** Positions of a row that there is memory for. */
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
  return { shape, type, rows, columns, capacity, tensors: 2 * shape.layers, tokenBytes, rowBytes, tensorBytes: rows * rowBytes };
}

/** Keys and values `[tensors, heads, length, headDim]` as the cache has them, `[tensors, length, heads, headDim]`. */
export function packTokens({ shape, type, tensors }: PagedLayout, { length, data }: KvTensor): Uint8Array {
  const { heads, headDim } = shape;
  if (type !== ElementType.float16) return new Uint8Array(turn(data, tensors, heads, length, headDim, new Float32Array(data.length)).buffer);
  // Halves are turned, not singles: half as much memory to write here and there.
  return new Uint8Array(turn(toFloat16(data), tensors, heads, length, headDim, new Uint16Array(data.length)).buffer);
}

/** The reverse, of some of the tensors. `bytes` begins at a multiple of 4. */
export function unpackTokens({ shape, type, tokenBytes }: PagedLayout, bytes: Uint8Array, length: number): Float32Array {
  const { width, heads, headDim } = shape;
  const elements = (bytes.length / tokenBytes) * width;
  const packed = type === ElementType.float16 ? fromFloat16(new Uint16Array(bytes.buffer, bytes.byteOffset, elements)) : new Float32Array(bytes.buffer, bytes.byteOffset, elements);
  return turn(packed, elements / (length * width), length, heads, headDim, new Float32Array(elements));
}

/** `[count, a, b, size]` -> `[count, b, a, size]` */
function turn<T extends Float32Array | Uint16Array>(data: T, count: number, a: number, b: number, size: number, turned: T): T {
  for (let item = 0; item < count; item++) {
    for (let i = 0; i < a; i++) {
      for (let j = 0; j < b; j++) {
        const from = ((item * a + i) * b + j) * size;
        const to = ((item * b + j) * a + i) * size;
        for (let k = 0; k < size; k++) turned[to + k] = data[from + k]!;
      }
    }
  }
  return turned;
}
