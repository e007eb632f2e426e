/** Token sequences as the training graph's inputs (train-graph.ts). */
import type { Gpt2Config } from "./checkpoint.ts";
import type { TrainedKind } from "./train-graph.ts";

/** One example: the model learns to predict tokens `[firstTarget, endTarget)` of `ids` from those before them. */
export interface TrainSequence {
  readonly ids: Int32Array;
  /** At least 1. */
  readonly firstTarget: number;
  readonly endTarget: number;
}

/** Number of a sequence's tokens that are fed: the last target is only predicted. */
export const fedTokens = ({ endTarget }: TrainSequence): number => endTarget - 1;
export const targetCount = ({ firstTarget, endTarget }: TrainSequence): number => endTarget - firstTarget;

type Input = Readonly<{ data: Int32Array | Float32Array | BigInt64Array; shape: readonly number[] }>;

export interface TrainBatch {
  /** R: targets of all sequences together. */
  readonly targets: number;
  /** All inputs except what is trained and the weight. */
  readonly inputs: Readonly<Record<string, Input>>;
}

/** Added to the score of a key that may not be seen: its probability is exactly 0. */
const UNSEEN = -1e9;

/** Pads sequences on the right, with token 0, to the longest. */
export function trainBatch(
  sequences: readonly TrainSequence[],
  kind: TrainedKind,
  virtualTokens: number,
  { heads, headDim, width }: Gpt2Config,
): TrainBatch {
  const rows = sequences.length;
  const own = Math.max(...sequences.map(fedTokens));
  // Virtual tokens of a prompt are tokens of the row; those of a prefix stand before it.
  const inRow = kind === "prompt" ? virtualTokens : 0;
  const before = virtualTokens - inRow;
  const length = inRow + own;

  const ids = new Int32Array(rows * own);
  const lossRows: number[] = [];
  const targets: number[] = [];
  for (const [row, sequence] of sequences.entries()) {
    for (let at = 0; at < fedTokens(sequence); at++) ids[at * rows + row] = sequence.ids[at]!;
    for (let target = sequence.firstTarget; target < sequence.endTarget; target++) {
      lossRows.push((inRow + target - 1) * rows + row);
      targets.push(sequence.ids[target]!);
    }
  }
  const rowOf = new Int32Array(rows * length).fill(lossRows.length);
  lossRows.forEach((token, index) => (rowOf[token] = index));
  const positions = Int32Array.from({ length: rows * length }, (_, token) => before + Math.floor(token / rows));
  const sizes = (...values: readonly number[]): Input => ({
    data: BigInt64Array.from(values, BigInt),
    shape: [values.length],
  });
  return {
    targets: targets.length,
    inputs: {
      input_ids: { data: ids, shape: [own, rows] },
      position_ids: { data: positions, shape: [length, rows] },
      mask: { data: causalMask(length, before), shape: [1, 1, length, before + length] },
      rows: { data: Int32Array.from(lossRows), shape: [lossRows.length] },
      targets: { data: Int32Array.from(targets), shape: [targets.length] },
      row_of: { data: rowOf, shape: [rowOf.length] },
      qkv_shape: sizes(length, rows, 3, heads, headDim),
      head_shape: sizes(length, rows, heads, headDim),
      ...(kind === "prefix"
        ? { expanded_shape: sizes(virtualTokens, rows, heads, headDim), lengths: sizes(virtualTokens, length) }
        : {
            expanded_shape: sizes(virtualTokens, rows, width),
            lengths: sizes(virtualTokens, own),
            token_shape: sizes(length, rows, width),
          }),
    },
  };
}

/** `[length, before + length]`: a token sees the prefix, the tokens before it and itself. */
function causalMask(length: number, before: number): Float32Array {
  const seen = before + length;
  const mask = new Float32Array(length * seen);
  for (let token = 0; token < length; token++) mask.fill(UNSEEN, token * seen + before + token + 1, (token + 1) * seen);
  return mask;
}
