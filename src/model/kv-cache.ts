/** A runner's KV cache: one row per running sequence and one more for folding. */
import { setImmediate as nextTurn } from "node:timers/promises";
import { kvElements, type KvTensor, type ModelShape } from "../kv.ts";
import type { HostTensor, Runtime, Tensor } from "../runtime/session.ts";

/**
 * Per layer a key and a value tensor, in that order: `2 * layers` tensors. Sequences use rows `[0, slots)`; row `slots`
 * is for folding. Calls take effect before the model's next run.
 */
export interface KvCache extends Disposable {
  /** Tensors `[count, heads, positions, headDim]` over rows `[0, count)`, behind pads where there are any. */
  rows(count: number): readonly Tensor[];
  /** Tensors `[1, heads, positions, headDim]` of a row, whose positions `[start, end)` may be written now. */
  row(row: number, start: number, end: number): readonly Tensor[];
  /** Copies a prefix into positions `[0, prefix.length)` of a row. */
  loadPrefix(row: number, prefix: KvTensor): void;
  /** Copies positions `[start, length)` of row `from` to row `to`. */
  copyRow(from: number, to: number, length: number, start: number): void;
  /** Fills positions `[from, to)` of a row with zeros. */
  wipe(row: number, from: number, to: number): void;
  /**
   * Zeroes everything that holds keys and values outside the rows. Drops hot prefixes too: they are loaded again when
   * needed.
   */
  wipeBuffers(): void;
  /** A copy of positions `[0, length)` of a row. Takes turns with other work: it may be hundreds of megabytes. */
  read(row: number, length: number): Promise<KvTensor>;
}

/** @throws RangeError for a prefix of another shape, which would overwrite its neighbours in the cache */
export function checkPrefix(shape: ModelShape, prefix: KvTensor): void {
  if (prefix.length > shape.positions || prefix.data.length !== kvElements(shape, prefix.length)) {
    throw new RangeError(
      `a prefix of length ${prefix.length} with ${prefix.data.length} values does not fit this model`,
    );
  }
}

/** Elements of one row of one tensor. */
function rowElements({ heads, positions, headDim }: ModelShape): number {
  return heads * positions * headDim;
}

/** The cache in host memory: rows are sub-arrays, and copying a row copies array elements. */
export class HostKvCache implements KvCache {
  readonly #runtime: Runtime;
  readonly #shape: ModelShape;
  /** Each `[slots + 1, heads, positions, headDim]`. */
  readonly #arrays: readonly Float32Array[];
  readonly #views = new Map<string, readonly HostTensor[]>();

  constructor(runtime: Runtime, shape: ModelShape, slots: number) {
    this.#runtime = runtime;
    this.#shape = shape;
    // The OS maps zeroed pages on first touch: an idle slot costs address space, not memory.
    this.#arrays = Array.from({ length: 2 * shape.layers }, () => new Float32Array((slots + 1) * rowElements(shape)));
  }

  rows(count: number): readonly Tensor[] {
    return this.#view(0, count);
  }

  row(row: number): readonly Tensor[] {
    return this.#view(row, 1);
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    checkPrefix(this.#shape, prefix);
    const run = prefix.length * this.#shape.headDim;
    this.#eachHead(row, (array, at, index) => array.set(prefix.data.subarray(index * run, (index + 1) * run), at));
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    const { headDim } = this.#shape;
    const distance = (from - to) * rowElements(this.#shape);
    this.#eachHead(to, (array, at) =>
      array.copyWithin(at + start * headDim, at + distance + start * headDim, at + distance + length * headDim),
    );
  }

  wipe(row: number, from: number, to: number): void {
    const { headDim } = this.#shape;
    this.#eachHead(row, (array, at) => array.fill(0, at + from * headDim, at + to * headDim));
  }

  wipeBuffers(): void {}

  async read(row: number, length: number): Promise<KvTensor> {
    const { heads, headDim } = this.#shape;
    const data = new Float32Array(kvElements(this.#shape, length));
    const run = length * headDim;
    for (const [tensor, array] of this.#arrays.entries()) {
      if (tensor > 0) await nextTurn();
      for (let head = 0; head < heads; head++) {
        const at = this.#headAt(row, head);
        data.set(array.subarray(at, at + run), (tensor * heads + head) * run);
      }
    }
    return { length, data };
  }

  [Symbol.dispose](): void {
    for (const tensor of [...this.#views.values()].flat()) tensor[Symbol.dispose]();
    this.#views.clear();
  }

  /**
   * Calls `visit` for each (layer, key or value, head) of a row with the array, the head's offset in it, and its index
   * in a KvTensor.
   */
  #eachHead(row: number, visit: (array: Float32Array, at: number, index: number) => void): void {
    const { heads } = this.#shape;
    let index = 0;
    for (const array of this.#arrays) {
      for (let head = 0; head < heads; head++) visit(array, this.#headAt(row, head), index++);
    }
  }

  /** Offset of a head of a row in each array. */
  #headAt(row: number, head: number): number {
    const { heads, positions, headDim } = this.#shape;
    return (row * heads + head) * positions * headDim;
  }

  /** Cached: there is one per row and one per batch size. */
  #view(row: number, count: number): readonly HostTensor[] {
    const name = `${row}+${count}`;
    const known = this.#views.get(name);
    if (known !== undefined) return known;
    const { heads, positions, headDim } = this.#shape;
    const size = rowElements(this.#shape);
    const tensors = this.#arrays.map((array) =>
      this.#runtime.tensor(array.subarray(row * size, (row + count) * size), [count, heads, positions, headDim]),
    );
    this.#views.set(name, tensors);
    return tensors;
  }
}
