/**
 * Continuous batching (Orca, OSDI'22): each step admits what fits, prefills a bounded chunk of prompt, and decodes one token for
 * every running sequence in one batch. Rows of the KV cache stay dense: row r of the batch is row r of the cache.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { asModelError, lostTouch, PrefixdError } from "../errors.ts";
import type { FoldInput, KvTensor } from "../kv.ts";
import type { EngineStats } from "../observability/engine-observer.ts";
import { advanceBeams } from "./beams/advance.ts";
import { ChoosingCost } from "./scheduling/choosing-cost.ts";
import { leftOutOf } from "./scheduling/choosing-turns.ts";
import type { EngineOptions } from "./options.ts";
import { EQUAL_SHARES, fairShare, type TenantShares } from "./scheduling/fair-share.ts";
import { FoldQueue, foldRun, type FoldOptions, type SideRun } from "./fold-queue.ts";
import {
  checkContext,
  checkQueueLimits,
  checkRoom,
  heldRows,
  prefillingRows,
  queueTimeout,
  type QueueRoom,
} from "./scheduling/admission.ts";
import type { ModelRunner, StepOutput } from "./runner.ts";
import { PrefillBudget } from "./scheduling/prefill-budget.ts";
import { runChunks } from "./prefill-run.ts";
import { trialRun } from "./prefix-trial.ts";
import { promptTokens } from "./prompt-scores.ts";
import { rowsOf, type EngineRequest, type RequestHandle, type RequestListener } from "./request.ts";
import { Rows } from "./decode-batch.ts";
import { inRuns, planPrefill, type PrefillChunk } from "./scheduling/plan.ts";
import { Job, type Sequence } from "./sequence.ts";
import { ServiceCounters } from "./scheduling/counters.ts";
import { CacheWiper } from "./kv-wiper.ts";

export type { EngineOptions, EngineStats };

/** How long to wait before asking again a policy that admits nothing although nothing runs. */
const IDLE_MS = 5;

export class Engine {
  readonly #runner: ModelRunner;
  readonly #options: EngineOptions;
  readonly #shares: TenantShares;
  readonly #counters: ServiceCounters;
  readonly #queue: Job[] = [];
  readonly #folds: FoldQueue;
  readonly #rows: Rows;
  readonly #wiper: CacheWiper;
  readonly #mayEmit: () => boolean;
  readonly #now: () => number;
  readonly #budget: PrefillBudget;
  readonly #costs = new ChoosingCost();
  readonly #longestChunk: number;
  /** Admitted, their prompts not yet whole in their rows; between two steps one at most. */
  #prefilling: Job[] = [];
  #loop: Promise<void> | null = null;
  #draining = false;

  constructor(options: EngineOptions) {
    this.#options = options;
    this.#runner = options.runner;
    this.#longestChunk = Math.min(options.prefillChunk, options.runner.longestChunk);
    this.#shares = options.shares ?? EQUAL_SHARES;
    this.#counters = new ServiceCounters(this.#shares);
    this.#wiper = new CacheWiper(options.runner);
    this.#rows = new Rows(options.runner, this.#wiper);
    this.#mayEmit = options.mayEmit ?? (() => true);
    this.#now = options.now ?? (() => performance.now());
    this.#budget = new PrefillBudget(options.prefillShare ?? 1);
    this.#folds = new FoldQueue({
      runner: options.runner,
      wiper: this.#wiper,
      counters: this.#counters,
      budget: this.#budget,
      observer: options.observer,
      now: this.#now,
    });
  }

  /**
   * Queues a request; its results come through the listener. Its rows must not exceed the runner's slots: whoever makes an EngineRequest
   * has checked that.
   * @throws PrefixdError context_exceeded, queue_full, user_queue_full, invalid_parameter (wider than its tenant's limit), draining, store_unavailable; RangeError for more rows than could ever be admitted
   */
  submit(request: EngineRequest, listener: RequestListener): RequestHandle {
    if (rowsOf(request) > this.#runner.slots)
      throw new RangeError(`${rowsOf(request)} rows with ${this.#runner.slots} slots`);
    checkContext(
      { prefix: request.prefix?.length ?? 0, prompt: request.promptIds.length, maxNew: request.maxNewTokens },
      this.#runner.shape.positions,
    );
    if (this.#draining) throw new PrefixdError("draining", "The server is shutting down.", { retryAfter: 1 });
    if (!this.#mayEmit()) throw lostTouch();
    checkQueueLimits(request, this.#queue, this.#room(), this.#shares);
    this.#counters.arrive(request.tenant, this.#waiting());
    const running = new Job(request, listener, this.#options.observer, performance.now());
    this.#queue.push(running);
    this.#wake();
    return { cancel: (reason) => this.#cancel(running, reason) };
  }

  /** Throws what `submit` would, as far as it is known before there is a request: `queue_full`. */
  refuseIfFull(tenant: string): void {
    checkRoom(tenant, this.#queue, this.#room(), this.#shares);
  }

  /**
   * Runs a soft or hard prompt through the model, in its tenant's turn; answers its keys and values.
   * @throws PrefixdError context_exceeded, draining, queue_timeout, model_failed, invalid_request (given up), what `endFolds` is given
   */
  async fold(input: FoldInput, options: FoldOptions): Promise<KvTensor> {
    return this.#besides(foldRun(this.#runner, input), options);
  }

  /**
   * Runs one token behind a prefix, in its tenant's turn.
   * @throws PrefixdError prefix_overflows, and what `fold` throws
   */
  async tryPrefix(prefix: KvTensor, options: FoldOptions): Promise<void> {
    return this.#besides(trialRun(this.#runner, prefix), options);
  }

  /** Ends what a tenant folds, or all. */
  endFolds(error: PrefixdError, tenant?: string): void {
    this.#folds.end(error, tenant);
  }

  /**
   * Overwrites with zeros whatever sequences that have ended left in the KV cache and in the model's buffers, a bounded part between
   * two steps. Resolves when nothing is left there of what had ended before the call.
   */
  wipeFreed(): Promise<void> {
    const wiped = this.#wiper.request();
    this.#wake();
    return wiped;
  }

  stats(): EngineStats {
    return {
      queued: this.#queue.length,
      folds: this.#folds.waiting.length,
      running: this.#rows.count + prefillingRows(this.#prefilling),
      slots: this.#runner.slots,
      maxQueue: this.#options.maxQueue,
    };
  }

  /** Takes nothing new, lets what was accepted finish for at most `graceMs`, then ends the rest with `draining`. */
  async drain(graceMs: number): Promise<void> {
    this.#draining = true;
    const timer = setTimeout(() => {
      const error = new PrefixdError("draining", "The server shut down before this request had finished.");
      this.#folds.end(error);
      this.#failAll(error);
    }, graceMs);
    while (this.#loop !== null) await this.#loop;
    clearTimeout(timer);
  }

  /** On the row that no sequence uses. */
  #besides<T>(run: SideRun<T>, options: FoldOptions): Promise<T> {
    checkContext({ prefix: run.prefixLength, prompt: run.promptLength, maxNew: 0 }, this.#runner.shape.positions);
    if (this.#draining) throw new PrefixdError("draining", "The server is shutting down.", { retryAfter: 1 });
    this.#counters.arrive(options.tenant, this.#waiting());
    const result = this.#folds.request(run, options);
    this.#wake();
    return result;
  }

  #room(): QueueRoom {
    const busyRows =
      this.#rows.sequences.filter((sequence) => !sequence.done).length + prefillingRows(this.#prefilling);
    return { maxQueue: this.#options.maxQueue, freeRows: this.#runner.slots - busyRows };
  }

  #plan(): PrefillChunk<Job>[] {
    // Most steps: nothing waits, or there is no room.
    const [prefilling = null] = this.#prefilling;
    if (prefilling === null && (this.#queue.length === 0 || this.#rows.count >= this.#runner.slots)) return [];
    const state = { running: this.#rows.count, slots: this.#runner.slots, prefilling, queue: this.#queue };
    const running = heldRows(
      this.#rows.sequences.map((sequence) => sequence.owner.tenant),
      this.#prefilling,
    );
    this.#counters.sweep(this.#waiting(), running);
    const policy = this.#options.policy ?? fairShare({ counters: this.#counters.all, running, shares: this.#shares });
    const { slots, chunkingChangesBits } = this.#runner;
    const waiting = Math.min(this.#queue.length + this.#prefilling.length, slots - this.#rows.count);
    return planPrefill(
      state,
      policy,
      this.#budget.limits({ tokens: this.#longestChunk, chunkingChangesBits, decoding: this.#rows.count, waiting }),
    );
  }

  #waiting(): readonly { readonly tenant: string }[] {
    return this.#folds.pending ? [...this.#queue, ...this.#folds.waiting] : this.#queue;
  }

  #wake(): void {
    this.#loop ??= this.#run().finally(() => {
      this.#loop = null;
      if (this.#hasWork()) this.#wake();
    });
  }

  async #run(): Promise<void> {
    // Requests that arrive in the same turn of the event loop start in the same step.
    await new Promise(setImmediate);
    while (this.#hasWork()) {
      try {
        // A step that could do nothing (the policy holds everything back) must not spin: timers and sockets want their turn.
        if (!(await this.#step())) await sleep(IDLE_MS);
      } catch (error) {
        this.#failAll(asModelError(error));
      }
    }
  }

  #hasWork(): boolean {
    return (
      this.#queue.length + this.#rows.count + this.#prefilling.length > 0 || this.#folds.pending || this.#wiper.pending
    );
  }

  /** Answers whether there was anything to do. */
  async #step(): Promise<boolean> {
    if (!this.#mayEmit()) this.#failAll(lostTouch());
    this.#releaseEnded();
    this.#endOverdue();
    const wiped = await this.#wipe();
    const fed = await this.#feedNext();
    this.#releaseEnded();
    const rows = this.#rows.count;
    if (rows > 0) await this.#decode();
    return wiped || fed || rows > 0 || !this.#hasWork();
  }

  /** Prompts, or a chunk of what is to be folded: whosever turn it is. */
  async #feedNext(): Promise<boolean> {
    const decoding = this.#rows.count;
    const mayFold = this.#folds.pending && this.#budget.mayFold(decoding);
    const plan =
      mayFold && this.#folds.isTurn(decoding < this.#runner.slots ? [...this.#prefilling, ...this.#queue] : [])
        ? []
        : this.#plan();
    for (const chunks of inRuns(plan, this.#runner, ({ request }) => !request.scorePrompt)) await this.#prefill(chunks);
    if (mayFold && plan.length === 0) await this.#folds.step(this.#longestChunk, decoding);
    return mayFold || plan.length > 0;
  }

  #releaseEnded(): void {
    this.#rows.releaseEnded();
    this.#prefilling = this.#prefilling.filter(({ ended }) => !ended);
  }

  /** Ends what has waited too long. Requests wait in the order of their arrival, whoever is admitted next. */
  #endOverdue(): void {
    const { queueTimeoutMs = Infinity } = this.#options;
    this.#folds.endOverdue(queueTimeoutMs);
    const since = performance.now() - queueTimeoutMs;
    while (this.#queue.length > 0 && this.#queue[0]!.submittedAt < since)
      this.#queue.shift()!.fail(queueTimeout(queueTimeoutMs));
  }

  async #wipe(): Promise<boolean> {
    if (!this.#wiper.pending) return false;
    this.#wiper.step((row) => this.#ownedPositions(row));
    // Nothing else in this step may wait for anything: sockets and timers want their turn.
    await new Promise(setImmediate);
    return true;
  }

  /** Positions of a row that hold what a live sequence will attend to. */
  #ownedPositions(row: number): number {
    if (row === this.#runner.slots) return this.#folds.owned;
    const sequence = this.#rows.sequences[row];
    if (sequence !== undefined) return sequence.length;
    const prefilling = this.#prefilling.find((request) => request.row === row);
    return prefilling === undefined ? 0 : prefilling.prefixLength + prefilling.fed;
  }

  /** Feeds chunks of different prompts in one run. */
  async #prefill(chunks: readonly PrefillChunk<Job>[]): Promise<void> {
    const begun = chunks.filter((chunk) => this.#begin(chunk));
    if (begun.length === 0) return;
    const started = this.#now();
    let output: StepOutput;
    try {
      output = await runChunks(this.#runner, begun);
    } catch (error) {
      for (const { request } of begun) this.#failPrefill(request, error);
      return;
    }
    const spent = this.#now() - started;
    const tokens = begun.reduce((sum, { from, to }) => sum + to - from, 0);
    this.#options.observer.step("prefill", begun.length, tokens, spent / 1000);
    for (const [index, chunk] of begun.entries()) {
      this.#budget.fed(chunk.request, chunk.from, chunk.to, (spent * (chunk.to - chunk.from)) / tokens);
      this.#fed(chunk, output, index);
    }
  }

  /** Makes the row ready for a chunk of prompt; answers whether it is to be fed. */
  #begin({ request, from, to, passedOver }: PrefillChunk<Job>): boolean {
    if (request.ended) return false;
    try {
      if (from === 0) this.#admit(request, passedOver);
      if (request.ended) return false;
      this.#wiper.written(request.row, request.prefixLength + to);
      return true;
    } catch (error) {
      this.#failPrefill(request, error);
      return false;
    }
  }

  /** A chunk of prompt is in its row; `output` has the answer for it, if it is the last one, in row `index`. */
  #fed({ request, from, to, last }: PrefillChunk<Job>, output: StepOutput, index: number): void {
    request.fed = to;
    if (last) this.#endPrefill(request);
    if (request.ended) return;
    const { scorePrompt } = request.request;
    try {
      if (scorePrompt) this.#scorePrompt(request, output, from, last);
      if (last && !request.ended) this.#activate(request, output, scorePrompt ? output.rows - 1 : index);
    } catch (error) {
      request.fail(asModelError(error));
    }
  }

  #endPrefill(request: Job): void {
    this.#prefilling = this.#prefilling.filter((one) => one !== request);
  }

  #failPrefill(request: Job, error: unknown): void {
    this.#endPrefill(request);
    request.fail(asModelError(error));
  }

  #admit(request: Job, passedOver: readonly Job[]): void {
    for (const passed of passedOver) passed.passedOver++;
    this.#queue.splice(this.#queue.indexOf(request), 1);
    this.#counters.admit(request.tenant, request.promptLength);
    request.row = this.#rows.count + prefillingRows(this.#prefilling);
    this.#prefilling.push(request);
    this.#options.observer.queued((performance.now() - request.submittedAt) / 1000);
    if (request.request.prefix !== null) {
      this.#wiper.written(request.row, request.prefixLength);
      this.#runner.loadPrefix(request.row, request.request.prefix);
    }
    request.tell((listener) => listener.onStart?.());
  }

  /** Keeps what a chunk of prompt says of the prompt's tokens, and tells it after the last chunk. */
  #scorePrompt(request: Job, output: StepOutput, from: number, last: boolean): void {
    request.promptTokens.push(...promptTokens(request.request, output, from));
    if (!last) return;
    if (!this.#mayEmit()) return this.#failAll(lostTouch());
    request.tell((listener) => listener.onPrompt?.(request.promptTokens));
  }

  /** The prompt is in its row: every choice gets a row with a copy of it and its first token. Beams get theirs by forking. */
  #activate(request: Job, output: StepOutput, answer: number): void {
    if (request.request.maxNewTokens === 0) return request.finishAll("length");
    const length = request.prefixLength + request.promptLength;
    this.#rows.add(request.sequences, request.row, length, request.search === null);
    const now = performance.now();
    if (request.search !== null) this.#advanceBeams(request, output, () => answer);
    else for (const sequence of request.sequences) this.#advance(sequence, output, answer, now);
    const begun = request.search !== null || request.sequences.some((sequence) => sequence.generated > 0);
    if (begun) this.#options.observer.firstToken((performance.now() - request.submittedAt) / 1000);
  }

  async #decode(): Promise<void> {
    const { sequences: batch, ids, positions } = this.#rows.batch();
    const started = this.#now();
    let output: StepOutput;
    try {
      output = await this.#runner.decode(ids, positions);
    } catch (error) {
      for (const sequence of batch) sequence.owner.fail(asModelError(error));
      return;
    }
    const spent = this.#now() - started;
    this.#budget.decoded(spent);
    this.#costs.ran(spent, batch.length);
    const leftOut = leftOutOf(batch, spent, this.#costs.row);
    const choosing = leftOut.size === 0 ? batch : batch.filter(({ chooser }) => !leftOut.has(chooser));
    this.#options.observer.step("decode", batch.length, choosing.length, spent / 1000);
    const now = performance.now();
    for (const sequence of choosing) sequence.length++;
    for (let row = 0; row < batch.length; row++)
      if (batch[row]!.owner.search === null && !leftOut.has(batch[row]!)) this.#advance(batch[row]!, output, row, now);
    const searches = new Set(choosing.filter(({ owner }) => owner.search !== null).map(({ owner }) => owner));
    for (const request of searches) this.#advanceBeams(request, output, (sequence) => batch.indexOf(sequence));
  }

  #advance(sequence: Sequence, output: StepOutput, row: number, now: number): void {
    if (sequence.done) return;
    if (!this.#mayEmit()) return this.#failAll(lostTouch());
    const { owner, generated } = sequence;
    const started = this.#now();
    try {
      sequence.advance(output, row, now);
    } catch (error) {
      owner.fail(asModelError(error));
    }
    this.#counters.generated(
      owner.tenant,
      this.#costs.of(owner.choosing, this.#now() - started, sequence.generated - generated),
    );
  }

  #advanceBeams(request: Job, output: StepOutput, outputRow: (sequence: Sequence) => number): void {
    if (request.ended) return;
    if (!this.#mayEmit()) return this.#failAll(lostTouch());
    const started = this.#now();
    request.tell((listener) => listener.onBeamStep?.(request.rows));
    if (request.ended) return;
    const prompt = request.prefixLength + request.promptLength;
    try {
      // After the first fork all rows of a search begin with the same prompt.
      advanceBeams(request, output, outputRow, (from, to) =>
        this.#rows.copy(
          this.#rows.sequences.indexOf(from),
          this.#rows.sequences.indexOf(to),
          from.length,
          from.length > prompt ? prompt : 0,
        ),
      );
    } catch (error) {
      request.fail(asModelError(error));
    }
    this.#counters.generated(request.tenant, this.#costs.of(request.choosing, this.#now() - started, request.rows));
  }

  #cancel(request: Job, reason: "cancelled" | "removed"): void {
    const index = this.#queue.indexOf(request);
    if (index >= 0) this.#queue.splice(index, 1);
    if (reason === "removed") request.finishAll("removed");
    else request.abandon();
  }

  #failAll(error: PrefixdError): void {
    const open = new Set([
      ...this.#queue.splice(0),
      ...this.#rows.sequences.map((sequence) => sequence.owner),
      ...this.#prefilling,
    ]);
    for (const request of open) request.fail(error);
  }
}
