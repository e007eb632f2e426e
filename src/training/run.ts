/** Runs a training to its end, or until it is interrupted. */
import type { Evaluation, Training, Update } from "./training.ts";

export interface RunOptions {
  /** Ends the run after the update that is on its way. */
  readonly signal: AbortSignal;
  /** Keeps the training's state; called after each evaluation and when the run is interrupted. */
  readonly save: (training: Training) => Promise<void>;
  /** Updates after which the state is kept even if nothing is evaluated; absent: any number. */
  readonly saveEvery?: number;
  /** Training goes on when what these return has resolved. */
  readonly onUpdate?: (update: Update) => unknown;
  readonly onEvaluation?: (evaluation: Evaluation) => unknown;
}

/** @throws TrainingError `diverged`, OrtError, what `save` throws */
export async function runTraining(training: Training, options: RunOptions): Promise<"done" | "interrupted"> {
  const { signal, save, saveEvery = Infinity, onUpdate, onEvaluation } = options;
  let unsaved = 0;
  while (!training.isDone || training.isEvaluationDue) {
    if (signal.aborted) {
      if (unsaved > 0) await save(training);
      return "interrupted";
    }
    if (training.isEvaluationDue) {
      // Not as an argument: it would not be evaluated where nobody listens.
      const evaluation = await training.evaluate();
      await save(training);
      unsaved = 0;
      await onEvaluation?.(evaluation);
    } else {
      const update = await training.update();
      if (++unsaved >= saveEvery) {
        await save(training);
        unsaved = 0;
      }
      await onUpdate?.(update);
    }
  }
  return "done";
}
