/**
 * Continuous batching (Orca, OSDI'22): each step admits what fits, prefills a bounded chunk of prompt, and decodes one
 * token for every running sequence in one batch. Rows of the KV cache stay dense: row r of the batch is row r of the
 * cache.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { asModelError, lostTouch, PrefixdError, shuttingDown } from "../errors.ts";
import type { FoldInput, KvTensor } from "../kv.ts";
import type { EngineSnapshot, EngineStats, PrefixesInUse } from "../observability/engine-observer.ts";
import { Rows } from "./decode-batch.ts";
import { WORK_PER_TOKEN } from "./constraint.ts";
import { Decoder } from "./decoder.ts";
import { FoldQueue, type FoldOptions } from "./fold-queue.ts";
import { CacheWiper } from "./kv-wiper.ts";
import type { EngineOptions } from "./options.ts";
import { Prefiller } from "./prefiller.ts";
import { trialRun } from "./prefix-trial.ts";
import { rowsOf, type EngineRequest, type RequestHandle, type RequestListener } from "./request.ts";
import type { ModelRunner } from "./runner.ts";
import { checkContext, checkQueueLimits, checkRoom, queueTimeout, type QueueRoom } from "./scheduling/admission.ts";
import { ServiceCounters } from "./scheduling/counters.ts";
import { EQUAL_SHARES, type TenantShares } from "./scheduling/fair-share.ts";
import { PrefillBudget } from "./scheduling/prefill-budget.ts";
import { Job } from "./sequence.ts";
import { foldRun, type SideRun } from "./side-run.ts";
import { jobsOf, prefixesOf, snapshotOf } from "./snapshot.ts";

export type { EngineOptions, EngineStats };

/** Delay before asking a policy again that admits nothing although nothing runs. */
const IDLE_MS = 5;

export class Engine {
  readonly #runner: ModelRunner;
  readonly #options: EngineOptions;
  readonly #shares: TenantShares;
  readonly #counters: ServiceCounters;
  readonly #queue: Job[] = [];
  readonly #rows: Rows;
  readonly #wiper: CacheWiper;
  readonly #budget: PrefillBudget;
  readonly #folds: FoldQueue;
  readonly #prefiller: Prefiller;
  readonly #decoder: Decoder;
  readonly #mayEmit: () => boolean;
  readonly #longestChunk: number;
  #loop: Promise<void> | null = null;
  #draining = false;

  constructor(options: EngineOptions) {
    const { runner, observer } = options;
    this.#options = options;
    this.#runner = runner;
    this.#longestChunk = Math.min(options.prefillChunk, runner.longestChunk);
    this.#shares = options.shares ?? EQUAL_SHARES;
    this.#mayEmit = options.mayEmit ?? (() => true);
    this.#counters = new ServiceCounters(this.#shares);
    this.#wiper = new CacheWiper(runner);
    this.#rows = new Rows(runner, this.#wiper);
    this.#budget = new PrefillBudget(options.prefillShare ?? 1);
    const parts = {
      runner,
      observer,
      rows: this.#rows,
      wiper: this.#wiper,
      counters: this.#counters,
      budget: this.#budget,
      now: options.now ?? (() => performance.now()),
      mayTell: () => this.#mayTell(),
    };
    this.#folds = new FoldQueue(parts);
    this.#decoder = new Decoder(parts);
    this.#prefiller = new Prefiller({
      ...parts,
      decoder: this.#decoder,
      queue: this.#queue,
      shares: this.#shares,
      policy: options.policy,
      longestChunk: this.#longestChunk,
    });
  }

  /**
   * Queues a request; the listener receives its results. The caller has checked that its rows do not exceed the
   * runner's slots.
   * @throws PrefixdError context_exceeded, queue_full, user_queue_full, invalid_parameter (wider than its tenant's
   * limit), draining, store_unavailable; RangeError for more rows than could ever be admitted
   */
  submit(request: EngineRequest, listener: RequestListener): RequestHandle {
    if (rowsOf(request) > this.#runner.slots)
      throw new RangeError(`${rowsOf(request)} rows with ${this.#runner.slots} slots`);
    checkContext(
      { prefix: request.prefix?.length ?? 0, prompt: request.promptIds.length, maxNew: request.maxNewTokens },
      this.#runner.shape.positions,
    );
    if (this.#draining) throw shuttingDown(1);
    if (!this.#mayEmit()) throw lostTouch();
    checkQueueLimits(request, this.#queue, this.#room(), this.#shares);
    this.#counters.arrive(request.tenant, this.#waiting());
    this.#counters.generated(request.tenant, (request.preparation ?? 0) / WORK_PER_TOKEN);
    const running = new Job(request, listener, this.#options.observer, performance.now());
    this.#queue.push(running);
    this.#wake();
    return { cancel: (reason) => this.#cancel(running, reason) };
  }

  /** Throws `queue_full` if `submit` would: known before there is a request. */
  refuseIfFull(tenant: string): void {
    checkRoom(tenant, this.#queue, this.#room(), this.#shares);
  }

  /**
   * Runs a soft or hard prompt through the model, in its tenant's turn, and returns its keys and values.
   * @throws PrefixdError context_exceeded, draining, queue_timeout, model_failed, invalid_request (given up), what
   * `endFolds` is given
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

  /** Ends all folds, or all of one tenant. */
  endFolds(error: PrefixdError, tenant?: string): void {
    this.#folds.end(error, tenant);
  }

  /** Charges a tenant for work that runs elsewhere for it, as for a prompt of so many tokens. */
  charge(tenant: string, tokens: number): void {
    this.#counters.arrive(tenant, this.#waiting());
    this.#counters.admit(tenant, tokens);
  }

  /** A tenant's service by weight so far; 0 once it makes no difference any more. */
  serviceOf(tenant: string): number {
    return this.#counters.least([{ tenant }]);
  }

  /**
   * Zeroes what ended sequences left in the KV cache and in the model's buffers, a bounded amount between steps.
   * Resolves when nothing is left of sequences that had ended before the call.
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
      running: this.#rows.count + this.#prefiller.rows,
      runningRequests: jobsOf(this.#rows.sequences, this.#prefiller.jobs).size,
      slots: this.#runner.slots,
      maxQueue: this.#options.maxQueue,
    };
  }

  /** Who runs and who waits. */
  snapshot(): EngineSnapshot {
    return snapshotOf({
      sequences: this.#rows.sequences,
      prefilling: this.#prefiller.jobs,
      queue: this.#queue,
      shares: this.#shares,
      now: performance.now(),
    });
  }

  /** Whose prefixes run and wait. */
  prefixesInUse(): PrefixesInUse {
    return {
      running: prefixesOf(jobsOf(this.#rows.sequences, this.#prefiller.jobs)),
      waiting: prefixesOf(this.#queue),
    };
  }

  /** Accepts nothing new, gives running requests `graceMs` to finish, then ends the rest with `draining`. */
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

  /** Queues work for the row that no sequence uses. */
  #besides<T>(run: SideRun<T>, options: FoldOptions): Promise<T> {
    checkContext({ prefix: run.prefixLength, prompt: run.promptLength, maxNew: 0 }, this.#runner.shape.positions);
    if (this.#draining) throw shuttingDown(1);
    this.#counters.arrive(options.tenant, this.#waiting());
    const result = this.#folds.request(run, options);
    this.#wake();
    return result;
  }

  #room(): QueueRoom {
    const decoding = this.#rows.sequences.filter((sequence) => !sequence.done).length;
    const freeRows = this.#runner.slots - decoding - this.#prefiller.rows;
    return { maxQueue: this.#options.maxQueue, freeRows };
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
        // If the policy holds everything back, do not spin: timers and sockets need their turn.
        if (!(await this.#step())) await sleep(IDLE_MS);
      } catch (error) {
        this.#failAll(asModelError(error));
      }
    }
  }

  #hasWork(): boolean {
    return (
      this.#queue.length + this.#rows.count + this.#prefiller.jobs.length > 0 ||
      this.#folds.pending ||
      this.#wiper.pending
    );
  }

  /** Returns whether there was anything to do. */
  async #step(): Promise<boolean> {
    this.#endWhatMayNotGoOn();
    const wiped = await this.#wipe();
    const fed = await this.#feed();
    const decoded = await this.#decoder.step();
    return wiped || fed || decoded || !this.#hasWork();
  }

  #endWhatMayNotGoOn(): void {
    this.#mayTell();
    this.#endOverdue();
    this.#releaseEnded();
  }

  /** Feeds prompts or a chunk of a fold, whichever has its turn. */
  async #feed(): Promise<boolean> {
    const decoding = this.#rows.count;
    const mayFold = this.#folds.pending && this.#budget.mayFold(decoding);
    const folds =
      mayFold && this.#folds.isTurn(decoding < this.#runner.slots ? [...this.#prefiller.jobs, ...this.#queue] : []);
    const plan = folds ? [] : this.#prefiller.plan(this.#waiting());
    await this.#prefiller.feed(plan);
    if (mayFold && plan.length === 0) await this.#folds.step(this.#longestChunk, decoding);
    this.#releaseEnded();
    return mayFold || plan.length > 0;
  }

  #releaseEnded(): void {
    this.#rows.releaseEnded();
    this.#prefiller.releaseEnded();
  }

  /** Ends what has waited too long. The queue is in order of arrival, whoever is admitted next. */
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
    // Nothing else in this step may await anything, and sockets and timers need their turn.
    await new Promise(setImmediate);
    return true;
  }

  /** Positions of a row that a live sequence will still attend to. */
  #ownedPositions(row: number): number {
    if (row === this.#runner.slots) return this.#folds.owned;
    const sequence = this.#rows.sequences[row];
    if (sequence !== undefined) return sequence.length;
    const prefilling = this.#prefiller.jobs.find((request) => request.row === row);
    return prefilling === undefined ? 0 : prefilling.prefixLength + prefilling.fed;
  }

  #cancel(request: Job, reason: "cancelled" | "removed"): void {
    const index = this.#queue.indexOf(request);
    if (index >= 0) this.#queue.splice(index, 1);
    if (reason === "removed") request.finishAll("removed");
    else request.abandon();
  }

  /** Whether results may be sent now. If not, ends all requests with `store_unavailable`. */
  #mayTell(): boolean {
    const may = this.#mayEmit();
    if (!may) this.#failAll(lostTouch());
    return may;
  }

  #failAll(error: PrefixdError): void {
    const open = new Set([
      ...this.#queue.splice(0),
      ...this.#rows.sequences.map((sequence) => sequence.owner),
      ...this.#prefiller.jobs,
    ]);
    for (const request of open) request.fail(error);
  }
}
