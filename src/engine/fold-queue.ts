/**
 * Soft and hard prompts that are to become keys and values. They are fed in chunks as prompts are, but on the row that no sequence uses, so one
 * after the other: they hold no slot, and whoever waits for a slot does not wait for them.
 */
import { asModelError, PrefixdError } from "../errors.ts";
import { queueTimeout } from "./scheduling/admission.ts";
import { endOfChunk } from "./scheduling/plan.ts";
import type { SideRun } from "./side-run.ts";
import type { StageParts } from "./stages.ts";

export interface FoldOptions {
  /** Whose share of the model it uses. */
  readonly tenant: string;
  /** Aborted: nobody waits for it any more. */
  readonly signal?: AbortSignal;
  /** It leaves the queue. */
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
  /** In order of arrival, the half-fed one among them. */
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

  /** Positions of the row that hold what the half-fed one will attend to. */
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
          new PrefixdError("invalid_request", "The prompt was given up before it had been run through the model."),
        );
      this.#folds.push(fold);
      if (signal?.aborted === true) giveUp();
      else signal?.addEventListener("abort", giveUp, { once: true });
    });
  }

  /**
   * Whether it is the turn of a fold or of one of `prompts`: that of the tenant that has had least, who has half of one fed among them, so that nobody
   * waits behind one whose own turn is late. Equal ones alternate.
   */
  isTurn(prompts: readonly { readonly tenant: string }[]): boolean {
    const { counters } = this.#parts;
    const difference = counters.least(this.#folds) - counters.least(prompts);
    if (difference !== 0) return difference < 0;
    return (this.#wonTie = !this.#wonTie);
  }

  /** Feeds the next chunk. `tokens`: the most that one may have; `decoding`: sequences that wait for it. */
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
      const result = fold.result();
      budget.foldRead(now() - read, decoding);
      this.#leave(fold);
      fold.resolve(result as never);
    } catch (error) {
      this.#end(fold, asModelError(error));
    }
  }

  /** Ends those of a tenant, or all. */
  end(error: PrefixdError, tenant?: string): void {
    for (const fold of this.#folds) if (tenant === undefined || fold.tenant === tenant) this.#end(fold, error);
  }

  /** Ends what has not begun within `milliseconds`. */
  endOverdue(milliseconds: number): void {
    const since = performance.now() - milliseconds;
    for (const fold of this.#folds)
      if (fold.fed === 0 && fold.submittedAt < since) this.#end(fold, queueTimeout(milliseconds));
  }

  /** Of the tenant that has had least; the first of those that came. */
  #next(): Fold {
    const least = this.#parts.counters.least(this.#folds);
    return this.#folds.find((fold) => this.#parts.counters.least([fold]) === least)!;
  }

  #end(fold: Fold, error: PrefixdError): void {
    this.#leave(fold);
    fold.reject(error);
  }

  /** A chunk of it that is just being fed is its last one. */
  #leave(fold: Fold): void {
    this.#folds = this.#folds.filter((one) => one !== fold);
    if (this.#open === fold) this.#open = null;
  }
}
