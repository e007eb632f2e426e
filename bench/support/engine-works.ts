/**
 * Decode steps and prompts timed through the engine: requests with prefixes, scheduler and sampler included, no HTTP.
 */
import { Engine } from "../../src/engine/engine.ts";
import type { KvTensor } from "../../src/kv.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import type { StepPhase } from "../../src/observability/engine-observer.ts";
import { PROMPT, UNCOUNTED } from "../peers/protocol.ts";
import { benchRequest, prefillChunkOf, promptIds, randomPrefix } from "./gpt2.ts";
import { median } from "./report.ts";

export interface DecodeWork {
  readonly rows: number;
  /** Whether each row has its own prefix; otherwise all share one. */
  readonly different: boolean;
  /**
   * Tokens in the cache halfway through the counted steps, averaged over the rows; the prefix is what the prompt leaves
   * of it.
   */
  readonly context: number;
  /** Counted steps. */
  readonly steps: number;
}

export class EngineWorks {
  readonly #runner: ModelRunner;
  readonly #engine: Engine;
  /** Prompts fed per step. */
  readonly #admitted: number;
  readonly #prefixes = new Map<string, KvTensor>();
  /**
   * Decode steps since the last call: rows, and seconds since the previous step ended, so that nothing in between is
   * missed.
   */
  readonly #steps: { rows: number; seconds: number }[] = [];
  #lastStep = 0;

  constructor(runner: ModelRunner) {
    this.#runner = runner;
    const observer = {
      step: (phase: StepPhase, rows: number) => this.#note(phase, rows),
      queued() {},
      firstToken() {},
      interToken() {},
      finished() {},
    };
    const prefillChunk = Math.min(prefillChunkOf(runner), runner.longestChunk);
    this.#admitted = Math.floor(prefillChunk / PROMPT);
    this.#engine = new Engine({ runner, maxQueue: Math.max(runner.slots, 1024), prefillChunk, observer });
  }

  /** Median seconds of a step of all rows. */
  async decode({ rows, different, context, steps }: DecodeWork): Promise<number> {
    const admission = Math.ceil(rows / this.#admitted);
    const prefix = context - PROMPT - UNCOUNTED - Math.round((admission + steps) / 2);
    if (prefix < 1) throw new RangeError(`a context of ${context} leaves nothing for a prefix`);
    this.#steps.length = 0;
    const maxNewTokens = admission + UNCOUNTED + steps + 1;
    await Promise.all(
      Array.from({ length: rows }, (_, row) =>
        this.#generate(this.prefix(prefix, different ? row : 0), PROMPT, row, maxNewTokens),
      ),
    );
    const full = this.#steps.filter((step) => step.rows === rows).slice(UNCOUNTED, UNCOUNTED + steps);
    if (full.length < steps) throw new Error(`${full.length} steps of ${rows} rows, not ${steps}`);
    return median(full.map(({ seconds }) => seconds));
  }

  /** Median seconds, over `times` requests, from a request with a prompt of `tokens` to its first token. */
  async prefill(tokens: number, times: number): Promise<number> {
    const seconds: number[] = [];
    for (let time = -1; time < times; time++) {
      const started = performance.now();
      await this.#generate(this.prefix(10, 0), tokens, time, 1);
      if (time >= 0) seconds.push((performance.now() - started) / 1000);
    }
    return median(seconds);
  }

  /** Seconds from the submission of `count` requests with the same prefix until all have their first token. */
  async prompts(count: number, tokens: number): Promise<number> {
    const prefix = this.prefix(10, 0);
    const started = performance.now();
    await Promise.all(Array.from({ length: count }, (_, seed) => this.#generate(prefix, tokens, seed, 1)));
    return (performance.now() - started) / 1000;
  }

  /**
   * Seconds from the submission of `rows` requests, each with its own prefix of 60, until all have their first token.
   */
  async admission(rows: number): Promise<number> {
    const prefixes = Array.from({ length: rows }, (_, row) => this.prefix(60, row));
    const started = performance.now();
    await Promise.all(prefixes.map((prefix, row) => this.#generate(prefix, PROMPT, row, 1)));
    return (performance.now() - started) / 1000;
  }

  prefix(length: number, seed: number): KvTensor {
    const key = `${length} ${seed}`;
    const made = this.#prefixes.get(key) ?? randomPrefix(this.#runner.shape, length, seed);
    this.#prefixes.set(key, made);
    return made;
  }

  #generate(prefix: KvTensor, prompt: number, seed: number, maxNewTokens: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const request = benchRequest({
        promptIds: promptIds(prompt, seed + 1, this.#runner.shape.vocabSize),
        prefix,
        maxNewTokens,
      });
      this.#engine.submit(request, { onToken: () => "continue", onFinish: () => resolve(), onError: reject });
    });
  }

  #note(phase: StepPhase, rows: number): void {
    const now = performance.now();
    if (phase === "decode") this.#steps.push({ rows, seconds: (now - this.#lastStep) / 1000 });
    this.#lastStep = now;
  }
}
