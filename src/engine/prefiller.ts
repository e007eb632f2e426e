/** Admits requests and feeds their prompts, a bounded number of tokens per step. */
import { asModelError } from "../errors.ts";
import type { Decoder } from "./decoder.ts";
import { runChunks } from "./prefill-run.ts";
import { promptScores } from "./prompt-scores.ts";
import type { StepOutput } from "./runner.ts";
import { heldRows, prefillingRows } from "./scheduling/admission.ts";
import { fairShare, type TenantShares } from "./scheduling/fair-share.ts";
import { inRuns, planPrefill, type PrefillChunk, type QueuePolicy } from "./scheduling/plan.ts";
import type { Job } from "./sequence.ts";
import type { StageParts } from "./stages.ts";

export interface PrefillerParts extends StageParts {
  readonly decoder: Decoder;
  /** In order of arrival. Admission removes requests from it. */
  readonly queue: Job[];
  readonly shares: TenantShares;
  /** Replaces fair shares. */
  readonly policy: QueuePolicy | undefined;
  /** Most tokens of a step, and of a chunk. */
  readonly longestChunk: number;
}

export class Prefiller {
  readonly #parts: PrefillerParts;
  /** Admitted requests whose prompts are not yet complete; at most one between two steps. */
  #jobs: Job[] = [];

  constructor(parts: PrefillerParts) {
    this.#parts = parts;
  }

  get jobs(): readonly Job[] {
    return this.#jobs;
  }

  /** Rows that these requests hold. */
  get rows(): number {
    return prefillingRows(this.#jobs);
  }

  releaseEnded(): void {
    this.#jobs = this.#jobs.filter(({ ended }) => !ended);
  }

  /** Plans what the next step feeds. `waiting`: all that wait for the model, folds included. */
  plan(waiting: Iterable<{ readonly tenant: string }>): PrefillChunk<Job>[] {
    const { runner, rows, queue, counters, shares, budget, longestChunk } = this.#parts;
    // The common case: nothing waits, or there is no room.
    const [prefilling = null] = this.#jobs;
    if (prefilling === null && (queue.length === 0 || rows.count >= runner.slots)) return [];
    const { slots, chunkingChangesBits } = runner;
    const demand = {
      tokens: longestChunk,
      chunkingChangesBits,
      decoding: rows.count,
      waiting: Math.min(queue.length + this.#jobs.length, slots - rows.count),
    };
    if (!budget.mayFeed(demand)) return [];
    const running = heldRows(
      rows.sequences.map((sequence) => sequence.owner.tenant),
      this.#jobs,
    );
    counters.sweep(waiting, running);
    const plan = planPrefill(
      { running: rows.count, slots, prefilling, queue },
      this.#parts.policy ?? fairShare({ counters: counters.all, running, shares }),
      budget.limits(demand),
    );
    budget.planned(plan, demand);
    return plan;
  }

  async feed(plan: readonly PrefillChunk<Job>[]): Promise<void> {
    for (const chunks of inRuns(plan, this.#parts.runner, ({ request }) => !request.scorePrompt))
      await this.#run(chunks);
  }

  /** Feeds chunks of different prompts in one run. */
  async #run(chunks: readonly PrefillChunk<Job>[]): Promise<void> {
    const { runner, budget, observer, now } = this.#parts;
    const begun = chunks.filter((chunk) => this.#begin(chunk));
    if (begun.length === 0) return;
    const started = now();
    let output: StepOutput;
    try {
      output = await runChunks(runner, begun);
    } catch (error) {
      for (const { request } of begun) this.#fail(request, error);
      return;
    }
    const spent = now() - started;
    const tokens = begun.reduce((sum, { from, to }) => sum + to - from, 0);
    observer.step("prefill", begun.length, tokens, spent / 1000);
    for (const [index, chunk] of begun.entries()) {
      budget.fed(chunk.request, chunk.from, chunk.to, (spent * (chunk.to - chunk.from)) / tokens, begun.length === 1);
      this.#fed(chunk, output, index);
    }
  }

  /** Prepares the row for a chunk. Returns false if the chunk is not to be fed. */
  #begin({ request, from, to, passedOver }: PrefillChunk<Job>): boolean {
    if (request.ended) return false;
    try {
      if (from === 0) this.#admit(request, passedOver);
      if (request.ended) return false;
      this.#parts.wiper.written(request.row, request.prefixLength + to);
      return true;
    } catch (error) {
      this.#fail(request, error);
      return false;
    }
  }

  #admit(request: Job, passedOver: readonly Job[]): void {
    const { runner, rows, queue, counters, wiper, observer } = this.#parts;
    for (const passed of passedOver) passed.passedOver++;
    queue.splice(queue.indexOf(request), 1);
    counters.admit(request.tenant, request.promptLength);
    request.row = rows.count + this.rows;
    this.#jobs.push(request);
    observer.queued((performance.now() - request.submittedAt) / 1000);
    if (request.request.prefix !== null) {
      wiper.written(request.row, request.prefixLength);
      runner.loadPrefix(request.row, request.request.prefix);
    }
    request.tell((listener) => listener.onStart?.());
  }

  /** Called when a chunk is in its row. If it is the prompt's last, row `index` of the output belongs to it. */
  #fed({ request, from, to, last }: PrefillChunk<Job>, output: StepOutput, index: number): void {
    request.fed = to;
    if (last) this.#remove(request);
    if (request.ended) return;
    const { scorePrompt } = request.request;
    try {
      if (scorePrompt) this.#score(request, output, from, last);
      if (last && !request.ended) this.#parts.decoder.begin(request, output, scorePrompt ? output.rows - 1 : index);
    } catch (error) {
      request.fail(asModelError(error));
    }
  }

  /** Collects the scores of the prompt's tokens, and reports them after the last chunk. */
  #score(request: Job, output: StepOutput, from: number, last: boolean): void {
    request.promptScores.push(...promptScores(request.request, output, from));
    if (last && this.#parts.mayTell()) request.tell((listener) => listener.onPrompt?.(request.promptScores));
  }

  #fail(request: Job, error: unknown): void {
    this.#remove(request);
    request.fail(asModelError(error));
  }

  #remove(request: Job): void {
    this.#jobs = this.#jobs.filter((one) => one !== request);
  }
}
