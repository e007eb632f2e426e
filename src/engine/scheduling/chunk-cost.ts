/**
 * Predicts how long a chunk of a prompt takes, learning from recent chunks:
 *
 *     time = pace * (fixed + head + tokens * (1 + context / reach))
 *
 * The ratios between these differ by orders of magnitude between models, devices and machines, so all are fitted to
 * recent chunks.
 */
import type { Answers } from "../runner.ts";
import { medianOf, RECENT } from "./recent-median.ts";

/** A prompt, or anything else that is fed in chunks. */
export interface FedPrompt {
  /** Positions taken before it. */
  readonly prefixLength: number;
  readonly promptLength: number;
  /** Which of its tokens get logits. */
  readonly answers: Answers;
}

/** `fixed` and `head` in units of the time that a token with no context takes, which is `pace`. */
interface Ratios {
  /** Reading the layers' weights, however short the chunk. */
  readonly fixed: number;
  /** Reading the head's weights, if output is asked for. */
  readonly head: number;
  /** Context length at which attention takes as long as everything else for a token. */
  readonly reach: number;
}

/** The first guess: GPT-2 small on a CPU, which measures 25, 9 and 3,600 in fp32, and 29, 8 and 1,300 in int8. */
const FIRST: Ratios = { fixed: 27, head: 9, reach: 2000 };
const NAMES = ["fixed", "head", "reach"] as const;
/** The ratios are fitted to this many chunks: enough to include the beginnings and ends of some prompts. */
const FITTED = 31;
/** The fit tries ratios this factor larger and smaller, up to a factor of FURTHEST from the first guess. */
const STEP = 1.25;
const FURTHEST = 50;
/** In ln. A prediction this CLOSE needs no new fit; a run further off than DISTURBED counts as disturbed. */
const [CLOSE, DISTURBED] = [Math.log(1.1), Math.log(3)];
/** Misfits that differ by less are equal. */
const BETTER = 0.01;

interface Chunk {
  readonly tokens: number;
  /** Average number of positions that its tokens attend to. */
  readonly context: number;
  readonly answered: boolean;
}

interface Fed extends Chunk {
  readonly milliseconds: number;
}

export class ChunkCost {
  #ratios = FIRST;
  #pace: number | null = null;
  /** The most recent chunks, including those that shared a run. */
  readonly #recent: Fed[] = [];
  /** The most recent chunks with a run of their own. */
  readonly #alone: Fed[] = [];

  /** Predicted milliseconds of prompt tokens `[from, to)`; 0 while nothing is known. */
  of(prompt: FedPrompt, from: number, to: number): number {
    return (this.#pace ?? 0) * work(this.#ratios, chunkOf(prompt, from, to));
  }

  /** Reading the layers' weights takes as long as this many tokens. */
  get fixed(): number {
    return this.#ratios.fixed;
  }

  /** @param alone whether it had a run of its own: only then does its time show what reading the weights takes */
  add(prompt: FedPrompt, from: number, to: number, milliseconds: number, alone: boolean): void {
    const fed = { ...chunkOf(prompt, from, to), milliseconds };
    keep(this.#recent, fed, RECENT);
    if (alone) keep(this.#alone, fed, FITTED);
    const foreseen = this.of(prompt, from, to);
    if (alone && foreseen > 0 && Math.abs(Math.log(milliseconds / foreseen)) > CLOSE)
      this.#ratios = fitted(this.#ratios, this.#alone);
    this.#pace = paceOf(this.#ratios, this.#recent);
  }
}

function chunkOf({ prefixLength, promptLength, answers }: FedPrompt, from: number, to: number): Chunk {
  return {
    tokens: to - from,
    context: prefixLength + (from + to) / 2,
    answered: answers === "all" || (answers === "last" && to === promptLength),
  };
}

function work({ fixed, head, reach }: Ratios, { tokens, context, answered }: Chunk): number {
  return fixed + (answered ? head : 0) + tokens * (1 + context / reach);
}

const paceOf = (ratios: Ratios, chunks: readonly Fed[]): number =>
  medianOf(chunks.map((chunk) => chunk.milliseconds / work(ratios, chunk)));

/**
 * Distance between predictions and measurements. Absolute and capped, so that a few disturbed runs have little weight.
 */
function misfit(ratios: Ratios, chunks: readonly Fed[]): number {
  const pace = paceOf(ratios, chunks);
  let sum = 0;
  for (const chunk of chunks)
    sum += Math.min(DISTURBED, Math.abs(Math.log(chunk.milliseconds / (pace * work(ratios, chunk)))));
  return sum;
}

/** Hill climbing from `ratios`, one ratio at a time, to a local best fit. */
function fitted(ratios: Ratios, chunks: readonly Fed[]): Ratios {
  let best = { ratios, misfit: misfit(ratios, chunks) };
  for (let from: Ratios | null = null; from !== best.ratios; ) {
    from = best.ratios;
    for (const name of NAMES) {
      for (const factor of [STEP, 1 / STEP]) {
        const tried = { ...best.ratios, [name]: best.ratios[name] * factor };
        if (Math.abs(Math.log(tried[name] / FIRST[name])) > Math.log(FURTHEST)) continue;
        const one = { ratios: tried, misfit: misfit(tried, chunks) };
        if (one.misfit < best.misfit - BETTER) best = one;
      }
    }
  }
  return best.ratios;
}

function keep(list: Fed[], fed: Fed, most: number): void {
  list.push(fed);
  if (list.length > most) list.shift();
}
