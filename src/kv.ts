/** Types shared by engine, model and prefixes: the base model's shape, and a prefix's keys and values. */

/** The base model's dimensions. `width = heads * headDim` (n_embd). */
export interface ModelShape {
  readonly layers: number;
  readonly heads: number;
  readonly headDim: number;
  readonly width: number;
  /** n_positions: rows of the position table, and the length of a KV slot. */
  readonly positions: number;
  readonly vocabSize: number;
}

/**
 * A compiled prefix: keys and values of `length` virtual tokens for every layer.
 * `data` is fp32 `[layers, 2, heads, length, headDim]` (2 = key, value), the order in which a KV slot is filled.
 * Immutable once made.
 */
export interface KvTensor {
  readonly length: number;
  readonly data: Float32Array;
}

/** A soft prompt that must be run through the model once to become keys and values ("folding"). */
export type FoldInput =
  | { readonly kind: "embeddings"; readonly length: number /** `[length, width]` */; readonly data: Float32Array }
  | { readonly kind: "tokens"; readonly ids: Int32Array };

/** Number of positions of a soft or hard prompt. */
export function foldLength(input: FoldInput): number {
  return input.kind === "tokens" ? input.ids.length : input.length;
}

/** Number of fp32 values of a prefix of `length` virtual tokens. */
export function kvElements(shape: ModelShape, length: number): number {
  return shape.layers * 2 * shape.heads * length * shape.headDim;
}
