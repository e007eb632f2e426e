/** The small inputs of a run over slots, laid out for the host's graph or a device's (gpt2-graph.ts). */
import type { Runtime, Tensor } from "../runtime/session.ts";

export interface StepSize {
  /** Sequences, of `length` tokens each. */
  readonly rows: number;
  readonly length: number;
  /** Tokens whose logits are wanted. */
  readonly answers: number;
  /** The model's width. */
  readonly width: number;
}

/** Typed arrays to fill, and tensors over them by the graph's input names. */
export class StepInputs implements Disposable {
  /** The input the device copies when bound, so it must be bound again after a change. Others are read in place. */
  static readonly copied = "integers";
  /** `[rows, length]`; SOFT_ID stands for a row of the embeddings. */
  readonly ids: Int32Array;
  /** `[rows, length]` */
  readonly positions: Int32Array;
  /** `[rows]`, the position of each row's last token. */
  readonly lastPositions: Int32Array;
  /** `[answers]`, indices into `ids`. */
  readonly answered: Int32Array;
  /** `[1]`, the longest row's length after this run. */
  readonly total = new Int32Array(1);
  readonly tensors: Readonly<Record<string, Tensor>>;

  /**
   * @param packed integers in one tensor, as a device's graph takes them
   * @param embeddings `[rows * length, width]`, if any
   */
  constructor(
    runtime: Runtime,
    packed: boolean,
    { rows, length, answers, width }: StepSize,
    embeddings: Float32Array | null = null,
  ) {
    const tokens = rows * length;
    const integers = new Int32Array(2 * tokens + rows + answers);
    this.ids = integers.subarray(0, tokens);
    this.positions = integers.subarray(tokens, 2 * tokens);
    this.lastPositions = integers.subarray(2 * tokens, 2 * tokens + rows);
    this.answered = integers.subarray(2 * tokens + rows);
    const total = { total_sequence_length: runtime.tensor(this.total, [1]) };
    this.tensors = packed
      ? {
          ...total,
          integers: runtime.tensor(integers, [integers.length]),
          integer_counts: runtime.tensor(BigInt64Array.from([tokens, tokens, rows, answers], BigInt), [4]),
          rows_shape: runtime.tensor(BigInt64Array.from([rows, length, -1], BigInt), [3]),
          ...(embeddings !== null && { soft_embeds: runtime.tensor(embeddings, [tokens, width]) }),
        }
      : {
          ...total,
          input_ids: runtime.tensor(this.ids, [rows, length]),
          position_ids: runtime.tensor(this.positions, [rows, length]),
          seqlens_k: runtime.tensor(this.lastPositions, [rows]),
          output_rows: runtime.tensor(this.answered, [answers]),
          soft_embeds:
            embeddings === null
              ? runtime.tensor(new Float32Array(width), [1, 1, width])
              : runtime.tensor(embeddings, [rows, length, width]),
        };
  }

  [Symbol.dispose](): void {
    for (const tensor of Object.values(this.tensors)) tensor[Symbol.dispose]();
  }
}
