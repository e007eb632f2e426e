/**
 * Soft and hard prompts to be turned into keys and values. They are fed in chunks like prompts, but one at a time, on
 * the row that no sequence uses. They hold no slot, so nothing that waits for a slot waits for them.
 */
import { asModelError, PrefixdError } from "../errors.ts";
import { queueTimeout } from "./scheduling/admission.ts";
import { endOfChunk } from "./scheduling/plan.ts";
import type { SideRun } from "./side-run.ts";
import type { StageParts } from "./stages.ts";

export interface FoldOptions {
  /** Whose share of the model it uses. */
  readonly tenant: string;
  /** Aborted when nobody waits for the result any more. */
  readonly signal?: AbortSignal;
  /** Called when it leaves the queue. */
  readonly onStart?: () => void;
}

interface Fold extends SideRun<unknown> {
  readonly tenant: string;
  readonly submittedAt: number;
  readonly onStart: (() => void) | undefined;
  readonly resolve: (result: never) => void;
  readonly reject: (error: unknown) => void;
  /** Of `promptLength`. */
  fed: number;
}

export class FoldQueue {
  readonly #parts: StageParts;
  /** In order of arrival, including the half-fed one. */
  #folds: Fold[] = [];
  #open: Fold | null = null;
  #wonTie = false;

  constructor(parts: StageParts) {
    this.#parts = parts;
  }

  get pending(): boolean {
    return this.#folds.length > 0;
  }

  get waiting(): readonly { readonly tenant: string }[] {
    return this.#folds;
  }

  /** Positions of the row that the half-fed fold will still attend to. */
  get owned(): number {
    return this.#open === null ? 0 : this.#open.prefixLength + this.#open.fed;
  }

  /** @throws PrefixdError model_failed, queue_timeout, invalid_request (given up), what `end` is given */
  request<T>(run: SideRun<T>, { tenant, signal, onStart }: FoldOptions): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      const fold: Fold = { ...run, tenant, submittedAt: performance.now(), onStart, resolve, reject, fed: 0 };
      const giveUp = (): void =>
        this.#end(
          fold,
          new PrefixdError(
            "invalid_request",
            "The request was aborted before the prompt had been run through the model.",
          ),
        );
      this.#folds.push(fold);
      if (signal?.aborted === true) giveUp();
      else signal?.addEventListener("abort", giveUp, { once: true });
    });
  }

  /**
   * Whether a fold goes next, rather than one of `prompts`: the tenant with the least service does, and on ties the two
   * alternate. Counts the half-fed fold's tenant together with those behind it, so that nobody waits behind a fold
   * whose own turn comes late.
   */
  isTurn(prompts: readonly { readonly tenant: string }[]): boolean {
    const { counters } = this.#parts;
    const difference = counters.least(this.#folds) - counters.least(prompts);
    if (difference !== 0) return difference < 0;
    return (this.#wonTie = !this.#wonTie);
  }

  /** Feeds the next chunk, of at most `tokens` tokens, while `decoding` sequences wait for it. */
  async step(tokens: number, decoding: number): Promise<void> {
    const { runner, wiper, counters, budget, observer, now } = this.#parts;
    const fold = (this.#open ??= this.#next());
    const from = fold.fed;
    const to = endOfChunk(
      fold,
      from,
      budget.limits({ tokens, chunkingChangesBits: runner.chunkingChangesBits, decoding, waiting: 0 }),
    );
    try {
      if (from === 0) fold.onStart?.();
      counters.admit(fold.tenant, to - from);
      wiper.written(runner.slots, fold.prefixLength + to);
      const started = now();
      await fold.feed(from, to);
      const spent = now() - started;
      observer.step("fold", 1, to - from, spent / 1000);
      budget.folded(fold, from, to, spent, decoding);
      fold.fed = to;
      if (to < fold.promptLength || this.#open !== fold) return;
      const read = now();
      const result = await fold.result();
      budget.foldRead(now() - read, decoding);
      this.#leave(fold);
      fold.resolve(result as never);
    } catch (error) {
      this.#end(fold, asModelError(error));
    }
  }

  /** Ends all folds, or all of one tenant. */
  end(error: PrefixdError, tenant?: string): void {
    for (const fold of this.#folds) if (tenant === undefined || fold.tenant === tenant) this.#end(fold, error);
  }

  /** Ends folds that have not started within `milliseconds`. */
  endOverdue(milliseconds: number): void {
    const since = performance.now() - milliseconds;
    for (const fold of this.#folds)
      if (fold.fed === 0 && fold.submittedAt < since) this.#end(fold, queueTimeout(milliseconds));
  }

  /** The earliest fold of the tenant with the least service. */
  #next(): Fold {
    const least = this.#parts.counters.least(this.#folds);
    return this.#folds.find((fold) => this.#parts.counters.least([fold]) === least)!;
  }

  #end(fold: Fold, error: PrefixdError): void {
    this.#leave(fold);
    fold.reject(error);
  }

  /** A chunk in flight is still fed, but is the last one. */
  #leave(fold: Fold): void {
    this.#folds = this.#folds.filter((one) => one !== fold);
    if (this.#open === fold) this.#open = null;
  }
}
