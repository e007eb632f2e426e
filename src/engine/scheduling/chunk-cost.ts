/**
 * What it takes to feed a chunk of a prompt, learned from the chunks before:
 *
 *     time = pace * (fixed + head + tokens * (1 + context / reach))
 *
 * How these compare differs between models, devices and machines by orders of magnitude, so all of them are fitted to the last chunks.
 */
import type { Answers } from "../runner.ts";
import { medianOf, RECENT } from "./recent-median.ts";

/** A prompt, or what else is fed in chunks. */
export interface FedPrompt {
  /** Positions that are taken before it. */
  readonly prefixLength: number;
  readonly promptLength: number;
  /** Which of its tokens get logits. */
  readonly answers: Answers;
}

/** All in tokens without anything before them, so that `pace` is the time of one. */
interface Ratios {
  /** Reading the layers' weights, however short the chunk is. */
  readonly fixed: number;
  /** Reading those of the head, where an answer is asked for. */
  readonly head: number;
  /** Positions to which attention takes as long as everything else for a token. */
  readonly reach: number;
}

/** Before anything is known: GPT-2 small on a CPU, in fp32 25, 9 and 3,600, in int8 29, 8 and 1,300. */
const FIRST: Ratios = { fixed: 27, head: 9, reach: 2000 };
const NAMES = ["fixed", "head", "reach"] as const;
/** Chunks that the ratios are fitted to: enough for some prompts' beginnings and ends. */
const FITTED = 31;
/** A ratio is tried this many times larger and smaller, and goes no further from the first one than FURTHEST. */
const STEP = 1.25;
const FURTHEST = 50;
/** In ln: what is foreseen better than this teaches nothing; what is off by more was disturbed. */
const [CLOSE, DISTURBED] = [Math.log(1.1), Math.log(3)];
/** Fits that differ by less are equally good. */
const BETTER = 0.01;

interface Chunk {
  readonly tokens: number;
  /** Positions that its tokens attend to, on average. */
  readonly context: number;
  readonly answered: boolean;
}

interface Fed extends Chunk {
  readonly milliseconds: number;
}

export class ChunkCost {
  #ratios = FIRST;
  #pace: number | null = null;
  /** The last ones, that shared a run with others too. */
  readonly #recent: Fed[] = [];
  /** The last ones that had a run of their own. */
  readonly #alone: Fed[] = [];

  /** Milliseconds that prompt tokens `[from, to)` are expected to take; 0: nothing is known yet. */
  of(prompt: FedPrompt, from: number, to: number): number {
    return (this.#pace ?? 0) * work(this.#ratios, chunkOf(prompt, from, to));
  }

  /** How many tokens take as long as reading the weights for them. */
  get fixed(): number {
    return this.#ratios.fixed;
  }

  /** @param alone no other chunk shared its run: then its time tells how long reading the weights takes */
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

/** How far these ratios are from what was measured. Absolute differences: the few that were disturbed do not count for more. */
function misfit(ratios: Ratios, chunks: readonly Fed[]): number {
  const pace = paceOf(ratios, chunks);
  let sum = 0;
  for (const chunk of chunks)
    sum += Math.min(DISTURBED, Math.abs(Math.log(chunk.milliseconds / (pace * work(ratios, chunk)))));
  return sum;
}

/** Goes from `ratios` step by step to better ones, until none near them is. */
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
