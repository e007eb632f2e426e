/**
 * Symmetric 8-bit weights with one scale per output channel, made from a checkpoint's tensor that is read twice in
 * chunks: the memory needed does not grow with the tensor.
 *
 *     scale[n] = max over k of |w[k, n]| / 127        integer[k, n] = round(w[k, n] / scale[n]), in [-127, 127]
 */
import type { CheckpointTensor } from "./checkpoint.ts";
import type { ZERO_POINT } from "./graph-weights.ts";

const CHUNK_BYTES = 4 << 20;

/** The largest integer. -128 is unused, so both signs have the same range. */
export const LARGEST = 127;

/** One scale per output channel, along `axis` of the two-dimensional tensor. A channel of zeros has scale 0. */
export async function channelScales(tensor: CheckpointTensor, axis: 0 | 1): Promise<Float32Array> {
  const [rows, columns] = tensor.shape as [number, number];
  const largest = new Float32Array(axis === 0 ? rows : columns);
  for await (const { firstRow, values } of rowBlocks(tensor)) {
    for (let at = 0, row = firstRow; at < values.length; row++) {
      for (let column = 0; column < columns; column++, at++) {
        const channel = axis === 0 ? row : column;
        const size = Math.abs(values[at]!);
        if (size > largest[channel]!) largest[channel] = size;
      }
    }
  }
  return largest.map((size) => size / LARGEST);
}

/**
 * Writes the integers plus `zeroPoint` as a matrix `[in, out]`, whichever axis of the tensor is the output's. Chunks
 * come in any order, with their offset `at` in the matrix, and are valid until `write` resolves.
 */
export async function writeIntegers(
  tensor: CheckpointTensor,
  axis: 0 | 1,
  scales: Float32Array,
  zeroPoint: 0 | typeof ZERO_POINT,
  write: (chunk: Int8Array | Uint8Array, at: number) => Promise<void>,
): Promise<void> {
  const [rows, columns] = tensor.shape as [number, number];
  for await (const { firstRow, values } of rowBlocks(tensor)) {
    const count = values.length / columns;
    const integers = zeroPoint === 0 ? new Int8Array(values.length) : new Uint8Array(values.length);
    for (let row = 0, at = 0; row < count; row++) {
      for (let column = 0; column < columns; column++, at++) {
        const scale = scales[axis === 0 ? firstRow + row : column]!;
        const integer = scale === 0 ? 0 : Math.round(values[at]! / scale);
        integers[axis === 0 ? column * count + row : at] = zeroPoint + Math.max(-LARGEST, Math.min(LARGEST, integer));
      }
    }
    if (axis === 1) await write(integers, firstRow * columns);
    else
      for (let column = 0; column < columns; column++)
        await write(integers.subarray(column * count, (column + 1) * count), column * rows + firstRow);
  }
}

/** Yields whole rows, as many as fit a chunk. */
async function* rowBlocks(tensor: CheckpointTensor): AsyncGenerator<{ firstRow: number; values: Float32Array }> {
  const columns = tensor.shape[1]!;
  const rowBytes = 4 * columns;
  let firstRow = 0;
  for await (const values of tensor.chunks(rowBytes * Math.max(1, Math.floor(CHUNK_BYTES / rowBytes)))) {
    yield { firstRow, values };
    firstRow += values.length / columns;
  }
}
