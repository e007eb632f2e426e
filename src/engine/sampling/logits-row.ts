import { PrefixdError } from "../../errors.ts";
import type { StepOutput } from "../runner.ts";

/**
 * One row of a step, with its candidates. Created once per token, so anything that takes memory is created on demand.
 */
export class Row {
  readonly candidates: number;
  readonly logSumExp: number;
  readonly #output: StepOutput;
  readonly #row: number;
  /** Offset of its candidates. */
  readonly #from: number;
  #logits: Float32Array | null = null;

  /** Throws `model_failed` if its logits are not numbers. */
  constructor(output: StepOutput, row: number) {
    this.candidates = output.candidates;
    this.logSumExp = output.logSumExp[row]!;
    this.#output = output;
    this.#row = row;
    this.#from = row * this.candidates;
    if (!Number.isFinite(this.logSumExp) || !Number.isFinite(this.topLogit(0))) throw new NotFiniteError();
  }

  /** Logit of the candidate at this rank, from 0. */
  topLogit(rank: number): number {
    return this.#output.topLogits[this.#from + rank]!;
  }

  topId(rank: number): number {
    return this.#output.topIds[this.#from + rank]!;
  }

  /** All candidates' logits, `[candidates]`. */
  get topLogits(): Float32Array {
    return this.#output.topLogits.subarray(this.#from, this.#from + this.candidates);
  }

  get topIds(): Int32Array {
    return this.#output.topIds.subarray(this.#from, this.#from + this.candidates);
  }

  get lastLogit(): number {
    return this.topLogit(this.candidates - 1);
  }

  /** All logits, `[vocabSize]`. */
  logits(): Float32Array {
    return (this.#logits ??= this.#output.logits(this.#row));
  }

  logitOf(id: number): number {
    for (let rank = 0; rank < this.candidates; rank++) if (this.topId(rank) === id) return this.topLogit(rank);
    return this.logits()[id]!;
  }

  isCandidate(id: number, logit: number): boolean {
    return logit > this.lastLogit || (logit === this.lastLogit && this.topIds.includes(id));
  }
}

/** Concerns one row only: the run itself succeeded. */
export class NotFiniteError extends PrefixdError {
  constructor() {
    super("model_failed", "The model's logits are not finite numbers; the prefix or the prompt leads it out of range.");
  }
}
