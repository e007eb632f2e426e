/**
 * What a training has that is asked for nothing else. Found on the demo's tasks, on rows that are not tested on (bench/training-defaults.ts,
 * docs/guides/train.md); Li & Liang and PEFT's examples use lower rates on larger models.
 */
export const DEFAULT_BATCH = 8;
const LEARNING_RATE = { values: 0.1, network: 3e-3 };
/** However few examples there are, the values have a way to go; with many, not all need be seen. */
export const LEAST_STEPS = 1000;
export const MOST_STEPS = 5000;
/** Passes over the data, between the two. */
export const DEFAULT_EPOCHS = 2;
const LONGEST_WARMUP = 20;
const EVALUATIONS = 8;

/** @param hidden width of the network; null: the values themselves are trained */
export const defaultLearningRate = (hidden: number | null): number =>
  hidden === null ? LEARNING_RATE.values : LEARNING_RATE.network;

export const defaultSteps = (examples: number, batchSize: number): number =>
  Math.min(MOST_STEPS, Math.max(LEAST_STEPS, stepsOf(DEFAULT_EPOCHS, examples, batchSize)));

export const stepsOf = (epochs: number, examples: number, batchSize: number): number =>
  Math.max(1, Math.round((epochs * examples) / batchSize));

export const defaultWarmup = (steps: number): number => Math.min(LONGEST_WARMUP, Math.floor(steps / 10));

export const defaultEvaluateEvery = (steps: number): number => Math.ceil(steps / EVALUATIONS);
