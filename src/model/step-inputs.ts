/** The small inputs of a run over slots, as the host's graph takes them, or a device's (gpt2-graph.ts). */
import type { Runtime, Tensor } from "../runtime/session.ts";

export interface StepSize {
  /** Sequences, of `length` tokens each. */
  readonly rows: number;
  readonly length: number;
  /** Tokens that are answered for. */
  readonly answers: number;
  /** Of the model. */
  readonly width: number;
}

/** Typed arrays to be filled, and the tensors over them by the graph's input names. */
export class StepInputs implements Disposable {
  /** What a device has a copy of: to be bound again once it has changed. The rest is read where it is. */
  static readonly copied = "integers";
  /** `[rows, length]`; SOFT_ID stands for a row of the embeddings. */
  readonly ids: Int32Array;
  /** `[rows, length]` */
  readonly positions: Int32Array;
  /** `[rows]`, the position of each one's last token. */
  readonly lastPositions: Int32Array;
  /** `[answers]`, indices into `ids`. */
  readonly answered: Int32Array;
  /** `[1]`, the most tokens that a row has then. */
  readonly total = new Int32Array(1);
  readonly tensors: Readonly<Record<string, Tensor>>;

  /**
   * @param packed as a device's graph has them: in one tensor
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
