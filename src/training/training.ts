/** One training: update after update, from any state that it was in. */
import { targetCount, type TrainSequence } from "../model/train-batch.ts";
import { trainRunBytes } from "../model/train-memory.ts";
import type { TargetLosses, TrainStep } from "../model/train-step.ts";
import { epochBatches, partsWithin } from "./data/batches.ts";
import type { Examples } from "./data/examples.ts";
import { mean, type Learned, type Learner, type Parts } from "./learner.ts";
import type { TrainingOptions } from "./options.ts";

/** Some examples of a file. */
export interface Selection {
  readonly examples: Examples;
  readonly indices: Int32Array;
}

export interface Update extends Pick<Learned, "loss" | "norm"> {
  /** The number of updates so far. */
  readonly step: number;
  /** Tokens of the batch (prompts, completions, EOS), as often as they went through the model. */
  readonly tokens: number;
}

export interface Evaluation {
  readonly step: number;
  /** Mean over all targets, in nats. */
  readonly loss: number;
  /** Share of the targets that are the likeliest token. */
  readonly accuracy: number;
  /** Share of the examples whose every target is: those that greedy decoding gets right to the end. */
  readonly exact: number;
  /** The token ids that were evaluated, if tokens are searched for. */
  readonly triggers?: readonly number[];
}

/** What changes in a training, besides arrays. */
export interface Progress {
  readonly step: number;
  readonly tokens: number;
  readonly evaluations: readonly Evaluation[];
  readonly best: Evaluation | null;
}

export interface TrainingParts {
  readonly model: TrainStep;
  readonly learner: Learner;
  readonly train: Selection;
  /** Null: nothing is evaluated, and the last values are the result. */
  readonly held: Selection | null;
  readonly options: TrainingOptions;
}

export class Training {
  readonly options: TrainingOptions;
  progress: Progress = { step: 0, tokens: 0, evaluations: [], best: null };
  /** Values of the best evaluation so far, as the model is given them. */
  readonly best: Float32Array;
  readonly #parts: TrainingParts;
  #epoch: { readonly number: number; readonly batches: readonly Int32Array[] } | null = null;

  constructor(parts: TrainingParts) {
    this.#parts = parts;
    this.options = parts.options;
    this.best = new Float32Array(parts.model.values.length);
  }

  get learner(): Learner {
    return this.#parts.learner;
  }

  get isDone(): boolean {
    const { step, evaluations, best } = this.progress;
    const { steps, patience } = this.options;
    const sinceBest = evaluations.filter((evaluation) => evaluation.step > (best?.step ?? 0)).length;
    return step >= steps || (patience > 0 && sinceBest >= patience);
  }

  /** True after every `evaluateEvery` updates and after the last one. */
  get isEvaluationDue(): boolean {
    const { step, evaluations } = this.progress;
    const { evaluateEvery, steps } = this.options;
    if (this.#parts.held === null || step === 0 || evaluations.at(-1)?.step === step) return false;
    return step % evaluateEvery === 0 || step === steps;
  }

  /** What the result is now: of the best evaluation, if anything was evaluated. */
  result(): Float32Array {
    if (this.progress.best !== null) return this.best;
    this.learner.present();
    return this.#parts.model.values;
  }

  /** The token ids of the result now; null: values are trained. */
  triggers(): readonly number[] | null {
    return this.progress.best?.triggers ?? this.learner.triggers();
  }

  /**
   * One update.
   * @throws TrainingError `diverged`; OrtError
   */
  async update(): Promise<Update> {
    const { step, tokens } = this.progress;
    const sequences = this.#nextBatch();
    const { loss, norm, passes } = await this.learner.update(step, this.#inParts(sequences));
    const count = Math.round(passes * sequences.reduce((sum, { ids }) => sum + ids.length, 0));
    this.progress = { ...this.progress, step: step + 1, tokens: tokens + count };
    return { step: step + 1, loss, norm, tokens: count };
  }

  /** Loss and accuracy on the held examples; keeps the values if no evaluation was better. @throws OrtError */
  async evaluate(): Promise<Evaluation> {
    const { model, learner, held } = this.#parts;
    if (held === null) throw new Error("nothing is held out");
    learner.present();
    const byLength = held.indices.slice().sort((a, b) => held.examples.tokens(a) - held.examples.tokens(b));
    const parts = this.#inParts(Array.from(byLength, (index) => held.examples.sequence(index)));
    const triggers = learner.triggers();
    const evaluation = {
      step: this.progress.step,
      ...summary(parts.flat(), await model.evaluate(parts)),
      ...(triggers === null ? {} : { triggers }),
    };
    const { evaluations, best } = this.progress;
    const isBest = best === null || evaluation.loss < best.loss;
    if (isBest) this.best.set(model.values);
    this.progress = {
      ...this.progress,
      evaluations: [...evaluations, evaluation],
      best: isBest ? evaluation : best,
    };
    return evaluation;
  }

  /** Batches follow from the seed and the number of updates: nothing else has to be kept. */
  #nextBatch(): readonly TrainSequence[] {
    const { examples, indices } = this.#parts.train;
    const { batchSize, seed } = this.options;
    const perEpoch = Math.ceil(indices.length / batchSize);
    const number = Math.floor(this.progress.step / perEpoch);
    if (this.#epoch?.number !== number)
      this.#epoch = { number, batches: epochBatches(examples, indices, batchSize, seed, number) };
    return Array.from(this.#epoch.batches[this.progress.step % perEpoch]!, (index) => examples.sequence(index));
  }

  #inParts(sequences: readonly TrainSequence[]): Parts {
    const { config, kind, virtualTokens } = this.#parts.model.options;
    return partsWithin(
      sequences,
      (rows, fed, targets) => trainRunBytes(config, kind, virtualTokens, rows, fed, targets),
      this.options.memory,
    );
  }
}

function summary(
  sequences: readonly TrainSequence[],
  { nll, margin }: TargetLosses,
): Omit<Evaluation, "step" | "triggers"> {
  const wrong = margin.map((value) => (value === 0 ? 0 : 1));
  // Parts of one example share its ids.
  const [all, failed] = [new Set<Int32Array>(), new Set<Int32Array>()];
  let at = 0;
  for (const sequence of sequences) {
    const end = at + targetCount(sequence);
    all.add(sequence.ids);
    if (wrong.subarray(at, end).includes(1)) failed.add(sequence.ids);
    at = end;
  }
  return { loss: mean(nll), accuracy: 1 - mean(wrong), exact: 1 - failed.size / all.size };
}
