/** Runs a training to its end, or until it is interrupted. */
import type { Evaluation, Training, Update } from "./training.ts";

export interface RunOptions {
  /** Ends the run after the update that is on its way. */
  readonly signal: AbortSignal;
  /** Keeps the training's state; called after each evaluation and when the run is interrupted. */
  readonly save: (training: Training) => Promise<void>;
  readonly onUpdate?: (update: Update) => void;
  readonly onEvaluation?: (evaluation: Evaluation) => void;
}

/** @throws TrainingError `diverged`, OrtError, what `save` throws */
export async function runTraining(training: Training, options: RunOptions): Promise<"done" | "interrupted"> {
  const { signal, save, onUpdate, onEvaluation } = options;
  let isSaved = true;
  while (!training.isDone || training.isEvaluationDue) {
    if (signal.aborted) {
      if (!isSaved) await save(training);
      return "interrupted";
    }
    if (training.isEvaluationDue) {
      // Not as an argument: it would not be evaluated where nobody listens.
      const evaluation = await training.evaluate();
      onEvaluation?.(evaluation);
      await save(training);
      isSaved = true;
    } else {
      const update = await training.update();
      onUpdate?.(update);
      isSaved = false;
    }
  }
  return "done";
}
