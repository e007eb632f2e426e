/**
 * How much of a step may go to prompts while others decode, in time: chunks of a prompt are made as long as they may be for a step to
 * take no more than 1 / (1 - share) of what it takes without them. What a chunk and a decode run will take is foreseen from those
 * before. It decides when a prompt is fed, never what comes of it.
 */
import { ChunkCost, type FedPrompt } from "./chunk-cost.ts";
import { RecentMedian } from "./recent-median.ts";
import { FREE_QUANTUM, type PrefillChunk, type PrefillLimits } from "./plan.ts";

export type { FedPrompt };

/**
 * A chunk is not made shorter than this part of the tokens that reading the weights takes, or the end of the prompt, to save time: nearly all
 * of it would be reading them, so that the prompt would take much longer and the others hardly less. 16 tokens of GPT-2 small on a CPU.
 */
const LEAST = 0.6;
/** With few sequences decoding, use longer chunks: chunk tokens x sequences >= this many full chunks, where that is more than so many tokens. */
const LEAST_WAITED = { chunks: 4, tokens: 16 };
/** A step may take so many times what its share allows before steps without prompts make up for it: what is foreseen is not exact. */
const TOLERANCE = 1.15;

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

type PlannedChunk = Pick<PrefillChunk<FedPrompt>, "request" | "from" | "to">;

export class PrefillBudget {
  readonly #share: number;
  /** Milliseconds of decode runs. */
  readonly #decodes = new RecentMedian();
  readonly #chunks = new ChunkCost();
  /** Of chunks that ask for logits of every token. */
  readonly #scores = new ChunkCost();
  /** Milliseconds that prompts have taken beyond their share, beside sequences that decode; as foreseen, so that a disturbed run counts for nothing. */
  #promptDebt = 0;
  /** The same of folding. */
  #foldDebt = 0;

  /** @param share part of a step's time, in (0, 1]; 1: no limit */
  constructor(share: number) {
    this.#share = share;
  }

  decoded(milliseconds: number): void {
    this.#decodes.add(milliseconds);
    if (this.#share === 1) return;
    this.#promptDebt = Math.max(0, this.#promptDebt - this.#besideDecode(TOLERANCE));
    this.#foldDebt = Math.max(0, this.#foldDebt - this.#besideDecode());
  }

  /** @param alone whether the run was of this chunk only; of several each has a part of its time */
  fed(prompt: FedPrompt, from: number, to: number, milliseconds: number, alone = true): void {
    if (this.#share < 1) this.#costOf(prompt).add(prompt, from, to, milliseconds, alone);
  }

  /** A chunk of what is folded, while so many sequences decode. */
  folded(fold: FedPrompt, from: number, to: number, milliseconds: number, decoding: number): void {
    this.fed(fold, from, to, milliseconds);
    if (decoding > 0 && this.#share < 1) this.#foldDebt += this.#costOf(fold).of(fold, from, to);
  }

  /** What folding took besides: reading keys and values back stops those who decode as well. */
  foldRead(milliseconds: number, decoding: number): void {
    if (decoding > 0 && this.#share < 1) this.#foldDebt += milliseconds;
  }

  /**
   * Whether a chunk may be folded now. Nobody waits for its first token, so here the share holds whatever a chunk takes: after one that took
   * longer, steps pass without one.
   */
  mayFold(decoding: number): boolean {
    return decoding === 0 || (this.#foldDebt <= 0 && this.#promptDebt <= 0);
  }

  /**
   * Whether prompts may be fed now: not while steps without them make up for chunks that no cut made short enough. Few who decode do not
   * hold up those who wait.
   */
  mayFeed(demand: Demand): boolean {
    return this.#promptDebt <= 0 || demand.decoding === 0 || leastWaited(demand) > 0;
  }

  /**
   * Limits of the next step. Those who decode are spared at the expense of those who wait: where more wait, the limit is wider in
   * that proportion.
   */
  limits(demand: Demand): PrefillLimits<FedPrompt> {
    const { tokens, chunkingChangesBits, decoding } = demand;
    const least = FREE_QUANTUM * Math.max(1, Math.round((LEAST * this.#chunks.fixed) / FREE_QUANTUM));
    return {
      tokens,
      quantum: chunkingChangesBits || tokens < 2 * FREE_QUANTUM ? tokens : FREE_QUANTUM,
      least: Math.max(least, leastWaited(demand)),
      milliseconds: this.#limited(decoding) ? this.#besideDecode() * crowding(demand) : Infinity,
      cost: (prompt, from, to) => this.#costOf(prompt).of(prompt, from, to),
    };
  }

  /** These chunks are what the step feeds. Those that are short enough for as few as decode are nobody's debt. */
  planned(chunks: readonly PlannedChunk[], demand: Demand): void {
    if (!this.#limited(demand.decoding)) return;
    let milliseconds = 0;
    for (const { request, from, to } of chunks)
      if (to - from > leastWaited(demand)) milliseconds += this.#costOf(request).of(request, from, to);
    milliseconds /= crowding(demand);
    if (milliseconds > this.#besideDecode(TOLERANCE)) this.#promptDebt += milliseconds;
  }

  #limited(decoding: number): boolean {
    return decoding > 0 && this.#decodes.value !== null && this.#share < 1;
  }

  /** Milliseconds that prompts may take beside a decode run, for the step to take `tolerance` times 1 / (1 - share) of it. */
  #besideDecode(tolerance = 1): number {
    return this.#decodes.value! * (tolerance / (1 - this.#share) - 1);
  }

  #costOf({ answers }: FedPrompt): ChunkCost {
    return answers === "all" ? this.#scores : this.#chunks;
  }
}

/** Tokens of a chunk that those who decode may be made to wait for, being so few; 0: they are not few. */
function leastWaited({ tokens, decoding }: Demand): number {
  const least = (LEAST_WAITED.chunks * tokens) / decoding;
  return least > LEAST_WAITED.tokens ? least : 0;
}

/** How many wait for each one that decodes, if they are more. */
const crowding = ({ waiting, decoding }: Demand): number => Math.max(1, waiting / decoding);
