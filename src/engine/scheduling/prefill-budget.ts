/**
 * How much of a step may go to prompts while others decode, in time: chunks of a prompt are made as long as they may be for a step to
 * take no more than 1 / (1 - share) of what it takes without them. What a chunk and a decode run will take is foreseen from those
 * before. It decides when a prompt is fed, never what comes of it.
 */
import type { Answers } from "../runner.ts";
import { RecentMedian } from "./recent-median.ts";
import { FREE_QUANTUM, type PrefillLimits } from "./plan.ts";

/**
 * A chunk is not made shorter than this, or the end of the prompt, to save time: nearly all of it would be reading the weights, so that
 * the prompt would take much longer and the others hardly less.
 */
const LEAST = 16;
/** With few sequences decoding, use longer chunks: chunk tokens x sequences >= this many full chunks. */
const LEAST_WAITED = 4;
/**
 * What a chunk takes besides its tokens, in tokens: reading the layers' weights, however short it is, and those of the head if it is a
 * prompt's last. Measured with GPT-2 small on a CPU; in fp32 25 and 9, in int8 29 and 8.
 */
const WEIGHTS = 27;
const HEAD = 9;
/** Positions to which attention takes as long as everything else for a token: in fp32 3,600, in int8 1,300. */
const POSITIONS = 2000;

/** What the next step has to serve. */
export interface Demand {
  /** Most tokens of a step, and of a chunk. */
  readonly tokens: number;
  readonly chunkingChangesBits: boolean;
  /** Sequences that decode. */
  readonly decoding: number;
  /** Requests that wait, or whose prompt is half fed, and for which there are rows. */
  readonly waiting: number;
}

/** What is fed in chunks. */
export interface FedPrompt {
  /** Positions that are taken before it. */
  readonly prefixLength: number;
  readonly promptLength: number;
  /** Which of its tokens get logits. */
  readonly answers: Answers;
}

export class PrefillBudget {
  readonly #share: number;
  /** Milliseconds of decode runs. */
  readonly #decodes = new RecentMedian();
  /** Milliseconds per unit of `work`, and the same of chunks that ask for logits of every token. */
  readonly #chunks = new Pace();
  readonly #scores = new Pace();
  /** Milliseconds that folding has taken beyond its share, beside sequences that decode; as foreseen, so that a disturbed run counts for nothing. */
  #debt = 0;

  /** @param share part of a step's time, in (0, 1]; 1: no limit */
  constructor(share: number) {
    this.#share = share;
  }

  decoded(milliseconds: number): void {
    this.#decodes.add(milliseconds);
    if (this.#share < 1) this.#debt = Math.max(0, this.#debt - this.#decodes.value! * this.#besideDecode);
  }

  fed(prompt: FedPrompt, from: number, to: number, milliseconds: number): void {
    this.#pace(prompt).add(to - from, milliseconds / work(prompt, from, to));
  }

  /** A chunk of what is folded, while so many sequences decode. */
  folded(fold: FedPrompt, from: number, to: number, milliseconds: number, decoding: number): void {
    this.fed(fold, from, to, milliseconds);
    if (decoding > 0 && this.#share < 1) this.#debt += this.#pace(fold).value! * work(fold, from, to);
  }

  /** What folding took besides: reading keys and values back stops those who decode as well. */
  foldRead(milliseconds: number, decoding: number): void {
    if (decoding > 0 && this.#share < 1) this.#debt += milliseconds;
  }

  /**
   * Whether a chunk may be folded now. Nobody waits for its first token, so here the share holds whatever a chunk takes: after one that took
   * longer, steps pass without one.
   */
  mayFold(decoding: number): boolean {
    return decoding === 0 || this.#debt <= 0;
  }

  /**
   * Limits of the next step. Those who decode are spared at the expense of those who wait: where more wait, the limit is wider in
   * that proportion.
   */
  limits({ tokens, chunkingChangesBits, decoding, waiting }: Demand): PrefillLimits<FedPrompt> {
    const decode = this.#decodes.value;
    const limited = decoding > 0 && decode !== null && this.#share < 1;
    return {
      tokens,
      quantum: chunkingChangesBits || tokens < 2 * FREE_QUANTUM ? tokens : FREE_QUANTUM,
      least: Math.max(LEAST, (LEAST_WAITED * tokens) / decoding),
      milliseconds: limited ? decode * this.#besideDecode * Math.max(1, waiting / decoding) : Infinity,
      cost: (prompt, from, to) => (this.#pace(prompt).value ?? 0) * work(prompt, from, to),
    };
  }

  /** What prompts may take of a millisecond of decode. */
  get #besideDecode(): number {
    return this.#share / (1 - this.#share);
  }

  #pace({ answers }: FedPrompt): Pace {
    return answers === "all" ? this.#scores : this.#chunks;
  }
}

/** What feeding prompt tokens `[from, to)` takes, in tokens without anything before them. */
function work({ prefixLength, promptLength, answers }: FedPrompt, from: number, to: number): number {
  const head = to === promptLength && answers !== "none" ? HEAD : 0;
  return WEIGHTS + head + (to - from) * (1 + (prefixLength + (from + to) / 2) / POSITIONS);
}

/** Median time of a full-size chunk; short chunks, which take less than in proportion, count only until a full one has been seen. */
class Pace {
  readonly #long = new RecentMedian();
  readonly #short = new RecentMedian();

  add(tokens: number, value: number): void {
    (tokens < LEAST ? this.#short : this.#long).add(value);
  }

  get value(): number | null {
    return this.#long.value ?? this.#short.value;
  }
}
