import { chooseToken } from "./choose.ts";
import type { TokenConstraint } from "../constraint.ts";
import type { StepOutput } from "../runner.ts";
import { LogitsProcessors } from "./processors.ts";
import { uniform } from "./random.ts";
import type { SamplingParams, TokenLogprob } from "../request.ts";
import { Row } from "./logits-row.ts";

const NONE: readonly TokenLogprob[] = Object.freeze([]);

/**
 * Chooses one choice's tokens as transformers' `generate()` does: fp32 processors in its order, arg max with the lowest
 * id on ties, or one draw from the resulting distribution, with one number per token that depends only on seed, choice
 * and the token's index.
 */
export class Sampler {
  readonly #params: SamplingParams;
  readonly #seed: number;
  readonly #choice: number;
  readonly #processors: LogitsProcessors;

  constructor(
    params: SamplingParams,
    seed: number,
    choice: number,
    promptIds: Int32Array,
    eosIds: readonly number[],
    constraint: TokenConstraint | null = null,
  ) {
    this.#params = params;
    this.#seed = seed;
    this.#choice = choice;
    this.#processors = new LogitsProcessors(params, promptIds, eosIds, constraint);
  }

  /**
   * The next token from row `row` of a step, with its logprob and the `topLogprobs` likeliest ones, all raw: before
   * processors. `topLogprobs` is at most the number of candidates. Throws MaskPending where the constraint needs `work`
   * first, `model_failed` if the row's logits are not numbers, `invalid_parameter` if the request forbids every token.
   */
  next(
    output: StepOutput,
    row: number,
    topLogprobs: number,
  ): { id: number; logprob: number; top: readonly TokenLogprob[] } {
    const from = new Row(output, row);
    const u = this.#params.doSample ? uniform(this.#seed, this.#choice, this.#processors.generated) : 0;
    const id = chooseToken(from, this.#processors, this.#params, u);
    this.#processors.push(id);
    return reportOf(from, id, topLogprobs);
  }

  /** The constraint lets nothing follow. */
  get final(): boolean {
    return this.#processors.final;
  }

  /** Finds more of what the constraint allows, for about `units` of work; returns the work done. */
  work(units: number): number {
    return this.#processors.work(units);
  }
}

/** The report on a token chosen from a row: its raw logprob, and those of the `topLogprobs` likeliest tokens. */
export function reportOf(
  row: Row,
  id: number,
  topLogprobs: number,
): { id: number; logprob: number; top: readonly TokenLogprob[] } {
  return {
    id,
    logprob: logprobOf(row.logitOf(id), row.logSumExp),
    top: topLogprobs === 0 ? NONE : topOf(row, topLogprobs),
  };
}

function topOf(row: Row, count: number): TokenLogprob[] {
  return Array.from({ length: count }, (_, rank) => ({
    id: row.topId(rank),
    logprob: logprobOf(row.topLogit(rank), row.logSumExp),
  }));
}

/** Log-softmax. Rounding of the log-sum-exp must not make it positive. */
function logprobOf(logit: number, logSumExp: number): number {
  return Math.min(0, logit - logSumExp);
}
