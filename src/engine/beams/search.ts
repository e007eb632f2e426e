/**
 * Beam search as transformers' `_beam_search` does it (generation/utils.py, 5.x), for one prompt; scores are fp32 as
 * there.
 */
import { PrefixdError } from "../../errors.ts";
import { bestContinuations, type Continuation, type OpenBeam } from "./continuations.ts";
import { drawContinuations } from "./draws.ts";
import { Row } from "../sampling/logits-row.ts";
import type { StepOutput } from "../runner.ts";
import { LogitsProcessors } from "../sampling/processors.ts";
import { uniform } from "../sampling/random.ts";
import type { BeamParams, EngineRequest, FinishReason, TokenEvent, TokenStop } from "../request.ts";
import { reportOf } from "../sampling/sampler.ts";

/** A token and its predecessors: forked beams share their past. */
interface PathNode {
  readonly token: Omit<TokenEvent, "choice">;
  readonly before: PathNode | null;
}

interface Path {
  /** Sum of its tokens' log probabilities; once finished, divided by its length to the power of the penalty. */
  readonly score: number;
  readonly last: PathNode | null;
  /** Why it ends with its last token; null if it goes on. */
  readonly end: FinishReason | null;
}

interface Beam extends Path {
  readonly processors: LogitsProcessors;
  readonly stop: TokenStop | null;
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

export type BeamRequest = Pick<
  EngineRequest,
  "promptIds" | "maxNewTokens" | "sampling" | "seed" | "topLogprobs" | "eosIds" | "beamStop" | "constraint"
>;

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
    const processors = new LogitsProcessors(
      request.sampling,
      request.promptIds,
      request.eosIds,
      request.constraint ?? null,
    );
    this.#running = [{ score: 0, last: null, end: null, processors, stop: request.beamStop }];
  }

  /** No running beam can, or may, improve on what has finished. */
  get done(): boolean {
    return this.#done;
  }

  /** Running beams: `numBeams`, or fewer if processors leave too few tokens or stop strings end too many. */
  get width(): number {
    return this.#running.length;
  }

  /** Finished sequences: `numBeams` when the search is done, unless the processors left fewer. */
  get found(): number {
    return this.#finished.length;
  }

  /**
   * One token more for every beam; `rows[i]` is the row of the output for beam i.
   * @throws MaskPending where the constraint needs `work` first; PrefixdError model_failed if logits are not numbers
   */
  step(output: StepOutput, rows: readonly number[]): BeamStep {
    const { numBeams, earlyStopping } = this.#params;
    const { topLogprobs } = this.#request;
    const open = this.#running.map((beam, index) => ({ ...beam, row: new Row(output, rows[index]!) }));
    const next = this.#continuations(open);
    this.#generated++;
    const extended = next.map(({ beam, id, score }): Beam => {
      const { row, last, processors, stop } = open[beam]!;
      const after = stop === null ? null : stop.after(id);
      return {
        score,
        last: { token: reportOf(row, id, topLogprobs), before: last },
        processors,
        stop: after,
        end: this.#endOf(id, (stop !== null && after === null) || processors.finalAfter(id)),
      };
    });
    // Candidates beyond the first `numBeams` are there only to leave enough that go on: their ends do not count.
    this.#finish(extended.slice(0, numBeams).filter(({ end }) => end !== null));
    const going = [...next.keys()]
      .filter((index) => extended[index]!.end === null)
      .sort((a, b) => next[b]!.score - next[a]!.score)
      .slice(0, numBeams);
    this.#running = going.map((index) => ({
      ...extended[index]!,
      processors: continued(extended[index]!.processors, next[index]!.id),
    }));
    const full = this.#finished.length === numBeams;
    this.#done = going.length === 0 || (full && (earlyStopping === true || !this.#canImprove()));
    return { parents: going.map((index) => next[index]!.beam), ids: going.map((index) => next[index]!.id) };
  }

  /**
   * The `n` best sequences, best first.
   * @throws PrefixdError invalid_parameter if the processors left so few tokens that there are not so many, or raised
   * scores out of range
   */
  results(n: number): BeamResult[] {
    if (this.found < n) {
      throw new PrefixdError("invalid_parameter", `Only ${this.found} sequences can be generated here, and n is ${n}.`);
    }
    const best = this.#finished.slice(0, n);
    if (!best.every(({ score }) => Number.isFinite(score)))
      throw new PrefixdError("invalid_parameter", "With these parameters the scores of this beam search overflow.");
    return best.map(({ score, last, end }) => ({ tokens: pathTo(last), score, reason: end ?? "length" }));
  }

  /** Finds more of what the constraint allows, for about `units` of work; returns the work done. */
  work(units: number): number {
    let done = 0;
    for (const { processors } of this.#running) if (done < units) done += processors.work(units - done);
    return done;
  }

  /**
   * The best continuations, or as many drawn: enough for `numBeams` to go on even if every beam's best tokens end it.
   */
  #continuations(open: readonly OpenBeam[]): Continuation[] {
    const { sampling, seed } = this.#request;
    const ends = this.#eosIds.size;
    const count = Math.max(2, 1 + ends) * this.#params.numBeams;
    if (!sampling.doSample) return bestContinuations(open, count, sampling.renormalize);
    // transformers leaves each beam one token at least that does not end it, and two where nothing does.
    return drawContinuations(open, count, sampling, ends === 0 ? 2 : 1 + ends, (index) =>
      uniform(seed, 0, this.#generated * count + index),
    );
  }

  #endOf(id: number, stopped: boolean): FinishReason | null {
    if (this.#eosIds.has(id)) return "eos";
    if (stopped) return "stop";
    return this.#generated >= this.#request.maxNewTokens ? "length" : null;
  }

  #finish(ended: readonly Path[]): void {
    const normalised = ended.map(({ score, last, end }) => ({
      score: this.#normalised(score, this.#generated),
      last,
      end,
    }));
    // The sort is stable: among equals the earlier one wins.
    this.#finished = [...this.#finished, ...normalised]
      .sort((a, b) => b.score - a.score)
      .slice(0, this.#params.numBeams);
  }

  /**
   * transformers' heuristic: the best running beam as if it ended now, or with `never` and a penalty that favours
   * length as if it ended at the last position with no loss, against the worst that has finished.
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
