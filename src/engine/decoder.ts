/** Gives every running sequence one token per step, in one run of the model. */
import { asModelError } from "../errors.ts";
import { advanceBeams } from "./beams/advance.ts";
import { MaskPending, WORK_PER_TOKEN } from "./constraint.ts";
import type { StepOutput } from "./runner.ts";
import { ChoosingCost } from "./scheduling/choosing-cost.ts";
import { leftOutOf } from "./scheduling/choosing-turns.ts";
import { shareWork, WORK_PER_STEP } from "./scheduling/constraint-turns.ts";
import type { Job, Sequence } from "./sequence.ts";
import type { StageParts } from "./stages.ts";

/** A sequence or a search that needs to know more of its constraint before it can choose from this step. */
interface Waiting {
  readonly tenant: string;
  readonly waited: number;
  readonly chooser: Sequence | Job;
  /** Tries again. Returns false if it still waits. */
  readonly advance: () => boolean;
}

export class Decoder {
  readonly #parts: StageParts;
  readonly #costs = new ChoosingCost();

  constructor(parts: StageParts) {
    this.#parts = parts;
  }

  /**
   * Called when the prompt is in its row. Gives every choice a row with a copy of it, and its first token; beams get
   * their rows by forking.
   */
  begin(request: Job, output: StepOutput, answer: number): void {
    if (request.request.maxNewTokens === 0) return request.finishAll("length");
    const { rows, observer } = this.#parts;
    rows.add(request.sequences, request.row, request.prefixLength + request.promptLength, request.search === null);
    const now = performance.now();
    const chosen =
      request.search !== null
        ? this.#advanceBeams(request, output, () => answer)
        : request.sequences.every((sequence) => this.#advance(sequence, output, answer, now));
    if (!chosen) throw new Error("a constraint's first mask must be known");
    const begun = request.search !== null || request.sequences.some((sequence) => sequence.generated > 0);
    if (begun) observer.firstToken((performance.now() - request.submittedAt) / 1000);
  }

  /** Gives every row one more token. Returns false if there are no rows. */
  async step(): Promise<boolean> {
    const { runner, rows, budget, observer, now: clock } = this.#parts;
    if (rows.count === 0) return false;
    const { sequences: batch, ids, positions } = rows.batch();
    const started = clock();
    let output: StepOutput;
    try {
      output = await runner.decode(ids, positions);
    } catch (error) {
      for (const sequence of batch) sequence.owner.fail(asModelError(error));
      return true;
    }
    const spent = clock() - started;
    budget.decoded(spent);
    this.#costs.ran(spent, batch.length);
    const leftOut = leftOutOf(batch, spent, this.#costs.row);
    const choosing = leftOut.size === 0 ? batch : batch.filter(({ chooser }) => !leftOut.has(chooser));
    observer.step("decode", batch.length, choosing.length, spent / 1000);
    const now = performance.now();
    for (const sequence of choosing) sequence.length++;
    let searches: Set<Job> | null = null;
    let waiting: Waiting[] | null = null;
    for (let row = 0; row < batch.length; row++) {
      const sequence = batch[row]!;
      const { owner, chooser } = sequence;
      if (leftOut.has(chooser)) continue;
      if (owner.search !== null) (searches ??= new Set()).add(owner);
      else if (!this.#advance(sequence, output, row, now)) {
        const { tenant, waited } = sequence;
        const advance = (): boolean => this.#advance(sequence, output, row, now);
        (waiting ??= []).push({ tenant, waited, chooser: sequence, advance });
      }
    }
    for (const request of searches ?? []) {
      const { tenant, waited } = request;
      const advance = (): boolean => this.#advanceBeams(request, output, (sequence) => batch.indexOf(sequence));
      if (!advance()) (waiting ??= []).push({ tenant, waited, chooser: request, advance });
    }
    if (waiting !== null) this.#work(waiting);
    return true;
  }

  /**
   * Works on constraints. Who still cannot choose is fed the same token again in the next step, like those that are
   * left out of one.
   */
  #work(waiting: readonly Waiting[]): void {
    const { counters, observer, now: clock } = this.#parts;
    const started = clock();
    const chosen = new Set<Waiting>();
    shareWork(waiting, WORK_PER_STEP, (one, units) => {
      const { chooser, tenant, advance } = one;
      try {
        const done = chooser.work(units);
        counters.generated(tenant, done / WORK_PER_TOKEN);
        if (advance()) chosen.add(one);
        return done;
      } catch (error) {
        chooser.job.fail(asModelError(error));
        return units;
      }
    });
    observer.constraintWork?.((clock() - started) / 1000);
    for (const one of waiting) {
      const { chooser } = one;
      chooser.waited = chosen.has(one) ? 0 : chooser.waited + 1;
      if (!chosen.has(one)) for (const sequence of chooser.ownSequences) sequence.length--;
    }
  }

  /** Returns false if the sequence waits for its constraint: nothing has changed. */
  #advance(sequence: Sequence, output: StepOutput, row: number, now: number): boolean {
    if (sequence.done) return true;
    const { counters, mayTell, now: clock } = this.#parts;
    if (!mayTell()) return true;
    const { owner, generated } = sequence;
    const started = clock();
    try {
      sequence.advance(output, row, now);
    } catch (error) {
      if (error instanceof MaskPending) return false;
      owner.fail(asModelError(error));
    }
    const tokens = sequence.generated - generated;
    counters.generated(owner.tenant, this.#costs.of(owner.choosing, clock() - started, tokens));
    return true;
  }

  /** Returns false if the search waits for its constraint: nothing has changed. */
  #advanceBeams(request: Job, output: StepOutput, outputRow: (sequence: Sequence) => number): boolean {
    if (request.ended) return true;
    const { rows, counters, mayTell, now: clock } = this.#parts;
    if (!mayTell()) return true;
    const started = clock();
    const prompt = request.prefixLength + request.promptLength;
    try {
      // After the first fork, all rows of a search already hold the prompt.
      advanceBeams(request, output, outputRow, (from, to) =>
        rows.copy(
          rows.sequences.indexOf(from),
          rows.sequences.indexOf(to),
          from.length,
          from.length > prompt ? prompt : 0,
        ),
      );
    } catch (error) {
      if (error instanceof MaskPending) return false;
      request.fail(asModelError(error));
    }
    counters.generated(request.tenant, this.#costs.of(request.choosing, clock() - started, request.rows));
    return true;
  }
}
