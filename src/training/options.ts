import { TrainingError } from "../errors.ts";
import type { TrainedKind } from "../model/train-graph.ts";

/** triggers: tokens, searched for by the gradient of their embeddings. */
export type TrainingKind = TrainedKind | "triggers";

/** Defaults of a search for them, in which an update takes as long as some eight of other kinds. */
export const TRIGGERS = { tokens: 5, candidates: 20, steps: 100 };

/** What the model's graph has the gradient of. */
export const graphKind = (kind: TrainingKind): TrainedKind => (kind === "triggers" ? "prompt" : kind);

/** Everything that decides a training's bits, besides the model and the data. */
export interface TrainingOptions {
  readonly kind: TrainingKind;
  /** Of triggers: their number. */
  readonly virtualTokens: number;
  /** Tokens that an update of triggers tries; absent for other kinds. */
  readonly candidates?: number;
  /** Triggers need not be text that can be typed; absent: they must be. */
  readonly anyToken?: true;
  /** Where forward and backward pass run; absent: the CPU. */
  readonly deviceKind?: "webgpu" | "cuda";
  /** The backward pass reads the weights from copies, see TrainStepOptions; absent: it does not. Evaluations never do. */
  readonly packWeights?: true;
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
  {
    kind,
    hidden,
    virtualTokens,
    dropout,
    candidates,
  }: Pick<TrainingOptions, "kind" | "hidden" | "virtualTokens" | "dropout" | "candidates">,
  positions: number,
): void {
  if (kind === "prompt" && hidden !== null) fail("A prompt is trained without a network: leave out the hidden size.");
  if (kind === "triggers" && hidden !== null) fail("Triggers are tokens: leave out the hidden size.");
  if (kind === "triggers" && !(candidates !== undefined && candidates >= 1))
    fail("A search for triggers needs a number of candidates, at least 1.");
  if (kind !== "triggers" && candidates !== undefined) fail("Only a search for triggers has candidates.");
  if (virtualTokens >= positions - 1)
    fail(`${virtualTokens} virtual tokens do not fit: the model has ${positions} positions, and examples need two.`);
  if (!(dropout >= 0 && dropout < 1)) fail(`The dropout ${dropout} is not at least 0 and below 1.`);
}

/** The same, for what the number of steps decides. */
export function checkWarmup({ steps, warmup }: Pick<TrainingOptions, "steps" | "warmup">): void {
  if (warmup > 0 && warmup >= steps) fail(`A warm-up of ${warmup} steps leaves nothing of ${steps} steps.`);
}
