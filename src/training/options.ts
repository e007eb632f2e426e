import { TrainingError } from "../errors.ts";
import type { TrainedKind } from "../model/train-graph.ts";

/** Everything that decides a training's bits, besides the model and the data. */
export interface TrainingOptions {
  readonly kind: TrainedKind;
  readonly virtualTokens: number;
  /** Width of the network behind a prefix (encoder_hidden_size); null: the values themselves are trained. */
  readonly hidden: number | null;
  /** Examples per update. */
  readonly batchSize: number;
  /** Updates. */
  readonly steps: number;
  readonly learningRate: number;
  /** Updates until the learning rate is reached. */
  readonly warmup: number;
  readonly weightDecay: number;
  /** Largest norm of the gradient; 0: any. */
  readonly clip: number;
  /** Share of the prefix's values that are zero in an update, at random. */
  readonly dropout: number;
  /** Updates between evaluations. */
  readonly evaluateEvery: number;
  /** Evaluations without a better one after which training ends; 0: never. */
  readonly patience: number;
  readonly seed: number;
  /** Memory for one run of the model, in bytes: larger batches are run in parts. */
  readonly memory: number;
  readonly threads: number;
}

const fail = (what: string): never => {
  throw new TrainingError("options_invalid", what);
};

/**
 * What can be said without the data.
 * @throws TrainingError `options_invalid` that names the option
 */
export function checkOptions(
  { kind, hidden, virtualTokens, dropout }: Pick<TrainingOptions, "kind" | "hidden" | "virtualTokens" | "dropout">,
  positions: number,
): void {
  if (kind === "prompt" && hidden !== null) fail("A prompt is trained without a network: leave out the hidden size.");
  if (virtualTokens >= positions - 1)
    fail(`${virtualTokens} virtual tokens do not fit: the model has ${positions} positions, and examples need two.`);
  if (!(dropout >= 0 && dropout < 1)) fail(`The dropout ${dropout} is not at least 0 and below 1.`);
}

/** The same, for what the number of steps decides. */
export function checkWarmup({ steps, warmup }: Pick<TrainingOptions, "steps" | "warmup">): void {
  if (warmup > 0 && warmup >= steps) fail(`A warm-up of ${warmup} steps leaves nothing of ${steps} steps.`);
}
