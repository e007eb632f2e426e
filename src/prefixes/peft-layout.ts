/**
 * PEFT keeps a prefix as `[P, layers * 2 * heads * headDim]` (per token: layer, then key and value, then head), a
 * KvTensor as `[layers, 2, heads, P, headDim]`. Source: peft 0.21 `PeftModel.get_prompt`, view and permute.
 */
import type { ModelShape } from "../kv.ts";

type Sizes = Pick<ModelShape, "layers" | "heads" | "headDim">;

/** Copies PEFT's rows from `first` on to their places among the `length` of `out`. */
export function splitHeads(rows: Float32Array, first: number, out: Float32Array, length: number, sizes: Sizes): void {
  const { headDim } = sizes;
  const blocks = blocksOf(sizes);
  const count = rows.length / (blocks * headDim);
  for (let block = 0; block < blocks; block++) {
    for (let row = 0; row < count; row++) {
      const from = (row * blocks + block) * headDim;
      out.set(rows.subarray(from, from + headDim), (block * length + first + row) * headDim);
    }
  }
}

/** All rows, from a prefix's `[layers, 2, heads, length, headDim]`. */
export function joinHeads(kv: Float32Array, length: number, sizes: Sizes): Float32Array {
  const { headDim } = sizes;
  const blocks = blocksOf(sizes);
  const rows = new Float32Array(kv.length);
  for (let block = 0; block < blocks; block++) {
    for (let row = 0; row < length; row++) {
      const from = (block * length + row) * headDim;
      rows.set(kv.subarray(from, from + headDim), (row * blocks + block) * headDim);
    }
  }
  return rows;
}

const blocksOf = ({ layers, heads }: Sizes): number => layers * 2 * heads;
