/** A model that costs nothing: its answers were made before it started. What is left is what the server itself takes. */
import type { Answers, ModelRunner, PromptChunk, StepOutput } from "../../src/engine/runner.ts";
import { kvElements, type KvTensor, type ModelShape } from "../../src/kv.ts";

/** GPT-2's dimensions, with the smallest possible keys and values. */
export const NULL_SHAPE: ModelShape = { layers: 1, heads: 1, headDim: 8, width: 8, positions: 1024, vocabSize: 50_257 };

/** Number of distinct answers; row r of step s has answer (31 s + 7 r) mod ANSWERS. */
const ANSWERS = 64;
const CANDIDATES = 64;

export class NullRunner implements ModelRunner {
  readonly shape = NULL_SHAPE;
  readonly longestChunk = 1024;
  readonly promptsAtOnce = 1;
  readonly chunkingChangesBits = false;
  readonly slots: number;
  readonly #outputs: readonly StepOutput[];
  #steps = 0;

  /** Candidates are ids in `[0, ids)`; logits fall with the logarithm of the rank, as a language model's do. */
  constructor(slots: number, ids: number) {
    this.slots = slots;
    this.#outputs = Array.from({ length: ANSWERS }, (_, step) => this.#output(slots, ids, step));
  }

  loadPrefix(): void {}
  copyRow(): void {}
  wipe(): void {}
  wipeBuffers(): void {}

  prefill(_row: number, _start: number, ids: Int32Array, answers: Answers): Promise<StepOutput> {
    return this.#step(answers === "all" ? ids.length : 1);
  }

  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput> {
    return this.#step(chunks.length);
  }

  decode(ids: Int32Array): Promise<StepOutput> {
    return this.#step(ids.length);
  }

  fold(): Promise<void> {
    return Promise.resolve();
  }

  read(_row: number, length: number): Promise<KvTensor> {
    return Promise.resolve({ length, data: new Float32Array(kvElements(this.shape, length)) });
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** Answers in a later turn, like a run off the event loop. */
  async #step(rows: number): Promise<StepOutput> {
    await new Promise(setImmediate);
    return { ...this.#outputs[this.#steps++ % ANSWERS]!, rows };
  }

  #output(slots: number, ids: number, step: number): StepOutput {
    const topLogits = new Float32Array(slots * CANDIDATES);
    const topIds = new Int32Array(slots * CANDIDATES);
    const logSumExp = new Float32Array(slots);
    for (let row = 0; row < slots; row++) {
      const answer = (31 * step + 7 * row) % ANSWERS;
      const steepness = 1.2 + (answer % 8) / 4;
      let sum = 0;
      for (let rank = 0; rank < CANDIDATES; rank++) {
        const logit = -steepness * Math.log(rank + 1);
        topLogits[row * CANDIDATES + rank] = logit;
        topIds[row * CANDIDATES + rank] = (answer * 7919 + rank * 104_729) % ids;
        sum += Math.exp(logit);
      }
      // Non-candidates have a tenth of the probability.
      logSumExp[row] = Math.log(sum / 0.9);
    }
    const logits = (): never => {
      throw new Error("the candidates were to suffice");
    };
    return { rows: slots, candidates: CANDIDATES, topLogits, topIds, logSumExp, logits };
  }
}
