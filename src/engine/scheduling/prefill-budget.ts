/**
 * Bounds the time that prompts take while others decode. Chunks are as long as possible with a step taking at most 1 /
 * (1 - share) times what it takes without prompts. Times are predicted from recent runs; they decide when a prompt is
 * fed, never its result.
 */
import { ChunkCost, type FedPrompt } from "./chunk-cost.ts";
import { RecentMedian } from "./recent-median.ts";
import { FREE_QUANTUM, type PrefillChunk, type PrefillLimits } from "./plan.ts";

export type { FedPrompt };

/**
 * No chunk is made shorter than this part of the tokens that take as long as reading the weights (16 tokens with GPT-2
 * small on a CPU), unless the prompt ends. It would spend nearly all its time reading them: the prompt would take much
 * longer, and the others would hardly gain.
 */
const LEAST = 0.6;
/**
 * With few sequences decoding, use longer chunks: chunk tokens x sequences >= `chunks` full chunks, if that means more
 * than `tokens` tokens.
 */
const LEAST_WAITED = { chunks: 4, tokens: 16 };
/**
 * Predictions are not exact: only a step that takes this many times its bound is made up for by steps without prompts.
 */
const TOLERANCE = 1.15;

/** What the next step must serve. */
export interface Demand {
  /** Most tokens of a step, and of a chunk. */
  readonly tokens: number;
  readonly chunkingChangesBits: boolean;
  /** Sequences that decode. */
  readonly decoding: number;
  /** Requests that wait or are half fed, as far as there are rows for them. */
  readonly waiting: number;
}

type PlannedChunk = Pick<PrefillChunk<FedPrompt>, "request" | "from" | "to">;

export class PrefillBudget {
  readonly #share: number;
  /** Milliseconds of decode runs. */
  readonly #decodes = new RecentMedian();
  readonly #chunks = new ChunkCost();
  /** Of chunks that want the logits of every token. */
  readonly #scores = new ChunkCost();
  /**
   * Milliseconds that prompts took beyond their share while others decoded. Predicted times, so that a disturbed run
   * does not count.
   */
  #promptDebt = 0;
  /** The same for folds. */
  #foldDebt = 0;

  /** @param share of a step's time, in (0, 1]; 1: no limit */
  constructor(share: number) {
    this.#share = share;
  }

  decoded(milliseconds: number): void {
    this.#decodes.add(milliseconds);
    if (this.#share === 1) return;
    this.#promptDebt = Math.max(0, this.#promptDebt - this.#besideDecode(TOLERANCE));
    this.#foldDebt = Math.max(0, this.#foldDebt - this.#besideDecode());
  }

  /** @param alone whether the chunk had a run of its own; otherwise `milliseconds` is its part of the run */
  fed(prompt: FedPrompt, from: number, to: number, milliseconds: number, alone = true): void {
    if (this.#share < 1) this.#costOf(prompt).add(prompt, from, to, milliseconds, alone);
  }

  /** Records a chunk of a fold, fed while `decoding` sequences waited. */
  folded(fold: FedPrompt, from: number, to: number, milliseconds: number, decoding: number): void {
    this.fed(fold, from, to, milliseconds);
    if (decoding > 0 && this.#share < 1) this.#foldDebt += this.#costOf(fold).of(fold, from, to);
  }

  /** Records the time to read a fold's keys and values back, which running sequences wait for as well. */
  foldRead(milliseconds: number, decoding: number): void {
    if (decoding > 0 && this.#share < 1) this.#foldDebt += milliseconds;
  }

  /**
   * Whether a chunk of a fold may be fed now. Nobody waits for a fold's first token, so here the share always holds: a
   * chunk that took longer is followed by steps without one.
   */
  mayFold(decoding: number): boolean {
    return decoding === 0 || (this.#foldDebt <= 0 && this.#promptDebt <= 0);
  }

  /**
   * Whether prompts may be fed now. Not while steps without prompts make up for chunks that could not be cut short
   * enough, unless only few sequences decode.
   */
  mayFeed(demand: Demand): boolean {
    return this.#promptDebt <= 0 || demand.decoding === 0 || leastWaited(demand) > 0;
  }

  /**
   * Limits of the next step. Running sequences are spared at the expense of waiting requests, so where more wait than
   * run, the limit grows in that proportion.
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

  /** Records what the step will feed. Chunks that are allowed because few sequences decode create no debt. */
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

  /**
   * Milliseconds for prompts beside a decode run, such that the step takes `tolerance` / (1 - share) times that run.
   */
  #besideDecode(tolerance = 1): number {
    return this.#decodes.value! * (tolerance / (1 - this.#share) - 1);
  }

  #costOf({ answers }: FedPrompt): ChunkCost {
    return answers === "all" ? this.#scores : this.#chunks;
  }
}

/** Chunk length that so few sequences may be made to wait for; 0: they are not few. */
function leastWaited({ tokens, decoding }: Demand): number {
  const least = (LEAST_WAITED.chunks * tokens) / decoding;
  return least > LEAST_WAITED.tokens ? least : 0;
}

/** Waiting requests per running sequence, at least 1. */
const crowding = ({ waiting, decoding }: Demand): number => Math.max(1, waiting / decoding);
