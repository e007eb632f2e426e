/** Beam search as transformers' `_beam_search` does it (generation/utils.py, 5.x), for one prompt; scores are fp32 as there. */
import { PrefixdError } from "../errors.ts";
import { bestContinuations, type Continuation } from "./beam-continuations.ts";
import { Row } from "./choose.ts";
import type { StepOutput } from "./model-runner.ts";
import { LogitsProcessors } from "./processors.ts";
import type { BeamParams, EngineRequest, FinishReason, TokenEvent } from "./request.ts";
import { reportOf } from "./sampler.ts";

/** A token and what led to it: beams that fork share their past. */
interface PathNode {
  readonly token: Omit<TokenEvent, "choice">;
  readonly before: PathNode | null;
}

interface Path {
  /** While it runs the sum of its tokens' log probabilities, once finished divided by its length to the power of the penalty. */
  readonly score: number;
  readonly last: PathNode | null;
}

interface Beam extends Path {
  readonly processors: LogitsProcessors;
}

/** The beams that go on: beam i continues the earlier beam `parents[i]` with the token `ids[i]`. */
export interface BeamStep {
  readonly parents: readonly number[];
  readonly ids: readonly number[];
}

export interface BeamResult {
  readonly tokens: readonly Omit<TokenEvent, "choice">[];
  /** transformers' `sequences_scores`. */
  readonly score: number;
  readonly reason: FinishReason;
}

export type BeamRequest = Pick<EngineRequest, "promptIds" | "maxNewTokens" | "sampling" | "topLogprobs" | "eosIds">;

export class BeamSearch {
  readonly #request: BeamRequest;
  readonly #params: BeamParams;
  readonly #eosIds: ReadonlySet<number>;
  /** Best first; one empty beam at the beginning. */
  #running: readonly Beam[];
  /** At most `numBeams`, best first. */
  #finished: Path[] = [];
  #generated = 0;
  #done = false;

  constructor(request: BeamRequest, params: BeamParams) {
    this.#request = request;
    this.#params = params;
    this.#eosIds = new Set(request.eosIds);
    this.#running = [{ score: 0, last: null, processors: new LogitsProcessors(request.sampling, request.promptIds, request.eosIds) }];
  }

  /** Nothing that still runs can better what has finished, or may go on. */
  get done(): boolean {
    return this.#done;
  }

  /** How many beams run: at most `numBeams`, and as many unless the processors leave too few tokens. */
  get width(): number {
    return this.#running.length;
  }

  /**
   * One token more for every beam; `rows[i]` is the row of the output for beam i.
   * @throws PrefixdError model_failed if logits are not numbers
   */
  step(output: StepOutput, rows: readonly number[]): BeamStep {
    const { numBeams, earlyStopping } = this.#params;
    const { topLogprobs, maxNewTokens } = this.#request;
    const open = this.#running.map((beam, index) => ({ ...beam, row: new Row(output, rows[index]!) }));
    // Enough that `numBeams` can go on even if every beam's best tokens are its ends.
    const best = bestContinuations(open, Math.max(2, 1 + this.#eosIds.size) * numBeams);
    const extended = best.map(({ beam, id, score }): Path => ({ score, last: { token: reportOf(open[beam]!.row, id, topLogprobs), before: open[beam]!.last } }));
    this.#generated++;
    const ends = ({ id }: Continuation): boolean => this.#eosIds.has(id) || this.#generated >= maxNewTokens;
    // What ends further down the list is only there to leave enough that does not.
    this.#finish(extended.slice(0, numBeams).filter((_, index) => ends(best[index]!)));
    const going = [...best.keys()].filter((index) => !ends(best[index]!)).slice(0, numBeams);
    this.#running = going.map((index) => ({ ...extended[index]!, processors: continued(open[best[index]!.beam]!.processors, best[index]!.id) }));
    const full = this.#finished.length === numBeams;
    this.#done = going.length === 0 || (full && (earlyStopping === true || !this.#canImprove()));
    return { parents: going.map((index) => best[index]!.beam), ids: going.map((index) => best[index]!.id) };
  }

  /**
   * The `n` best sequences, best first.
   * @throws PrefixdError invalid_parameter if the processors left so few tokens that there are not so many
   */
  results(n: number): BeamResult[] {
    if (this.#finished.length < n) {
      throw new PrefixdError("invalid_parameter", `There are only ${this.#finished.length} sequences that may be generated here, and n is ${n}.`);
    }
    return this.#finished.slice(0, n).map(({ score, last }) => ({ tokens: pathTo(last), score, reason: last !== null && this.#eosIds.has(last.token.id) ? "eos" : "length" }));
  }

  #finish(ended: readonly Path[]): void {
    const normalised = ended.map(({ score, last }) => ({ score: this.#normalised(score, this.#generated), last }));
    // A stable sort: of equal ones the earlier.
    this.#finished = [...this.#finished, ...normalised].sort((a, b) => b.score - a.score).slice(0, this.#params.numBeams);
  }

  /**
   * transformers' heuristic: the best running beam as if it ended now, or with `never` and a penalty that favours length as if it
   * ended at the last position with no loss, against the worst that has finished.
   */
  #canImprove(): boolean {
    const { earlyStopping, lengthPenalty } = this.#params;
    const length = earlyStopping === "never" && lengthPenalty > 0 ? this.#request.maxNewTokens : this.#generated;
    return this.#normalised(this.#running[0]!.score, length) > this.#finished.at(-1)!.score;
  }

  #normalised(score: number, length: number): number {
    return Math.fround(score / Math.fround(length ** this.#params.lengthPenalty));
  }
}

function continued(processors: LogitsProcessors, id: number): LogitsProcessors {
  const fork = processors.fork();
  fork.push(id);
  return fork;
}

function pathTo(last: PathNode | null): PathNode["token"][] {
  const tokens: PathNode["token"][] = [];
  for (let node = last; node !== null; node = node.before) tokens.push(node.token);
  return tokens.reverse();
}
