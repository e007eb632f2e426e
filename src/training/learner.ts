/** How a training changes what the model is given. */
import type { TrainSequence } from "../model/train-batch.ts";

/** A batch in parts that run one after the other. */
export type Parts = readonly (readonly TrainSequence[])[];

export interface Learned {
  /** Mean over the batch's targets, in nats, before the update. */
  readonly loss: number;
  /** Of the gradient. */
  readonly norm: number;
  /** How often the batch went through the model; a forward pass alone counts a third. */
  readonly passes: number;
}

/** An array of a state. */
export interface StateArray {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export interface Learner {
  /** All that it has to keep, by name; written to when a training is restored. */
  readonly arrays: ReadonlyMap<string, StateArray>;
  /** Gives the model the values as they are now. */
  present(): void;
  /**
   * Learns from a batch.
   * @param step the number of updates before this one
   * @throws TrainingError `diverged`; OrtError
   */
  update(step: number, parts: Parts): Promise<Learned>;
  /** The token ids that are searched for, as they are now; null: values are trained. */
  triggers(): readonly number[] | null;
}

export const mean = (values: Float32Array): number => values.reduce((sum, value) => sum + value, 0) / values.length;
