/** Gives every running sequence one token per step, in one run of the model. */
import { asModelError } from "../errors.ts";
import { advanceBeams } from "./beams/advance.ts";
import type { StepOutput } from "./runner.ts";
import { ChoosingCost } from "./scheduling/choosing-cost.ts";
import { leftOutOf } from "./scheduling/choosing-turns.ts";
import type { Job, Sequence } from "./sequence.ts";
import type { StageParts } from "./stages.ts";

export class Decoder {
  readonly #parts: StageParts;
  readonly #costs = new ChoosingCost();

  constructor(parts: StageParts) {
    this.#parts = parts;
  }

  /** Called when the prompt is in its row. Gives every choice a row with a copy of it, and its first token; beams get their rows by forking. */
  begin(request: Job, output: StepOutput, answer: number): void {
    if (request.request.maxNewTokens === 0) return request.finishAll("length");
    const { rows, observer } = this.#parts;
    rows.add(request.sequences, request.row, request.prefixLength + request.promptLength, request.search === null);
    const now = performance.now();
    if (request.search !== null) this.#advanceBeams(request, output, () => answer);
    else for (const sequence of request.sequences) this.#advance(sequence, output, answer, now);
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
    for (let row = 0; row < batch.length; row++) {
      const sequence = batch[row]!;
      const { owner, chooser } = sequence;
      if (leftOut.has(chooser)) continue;
      if (owner.search === null) this.#advance(sequence, output, row, now);
      else (searches ??= new Set()).add(owner);
    }
    if (searches !== null)
      for (const request of searches) this.#advanceBeams(request, output, (sequence) => batch.indexOf(sequence));
    return true;
  }

  #advance(sequence: Sequence, output: StepOutput, row: number, now: number): void {
    if (sequence.done) return;
    const { counters, mayTell, now: clock } = this.#parts;
    if (!mayTell()) return;
    const { owner, generated } = sequence;
    const started = clock();
    try {
      sequence.advance(output, row, now);
    } catch (error) {
      owner.fail(asModelError(error));
    }
    const tokens = sequence.generated - generated;
    counters.generated(owner.tenant, this.#costs.of(owner.choosing, clock() - started, tokens));
  }

  #advanceBeams(request: Job, output: StepOutput, outputRow: (sequence: Sequence) => number): void {
    if (request.ended) return;
    const { rows, counters, mayTell, now: clock } = this.#parts;
    if (!mayTell()) return;
    const started = clock();
    request.tell((listener) => listener.onBeamStep?.(request.rows));
    if (request.ended) return;
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
      request.fail(asModelError(error));
    }
    counters.generated(request.tenant, this.#costs.of(request.choosing, clock() - started, request.rows));
  }
}
