/** Trains values by their gradient. */
import { uniform } from "../engine/sampling/random.ts";
import { TrainingError } from "../errors.ts";
import type { TrainStep } from "../model/train-step.ts";
import { mean, type Learned, type Learner, type Parts, type StateArray } from "./learner.ts";
import { AdamW, clipFactor, gradientNorm, linearSchedule, type Parameter } from "./optimizer.ts";
import type { TrainingOptions } from "./options.ts";
import type { Parametrisation } from "./parametrisation.ts";

/** A random half of the seed's streams, apart from those of batches. */
const DROPOUT_STREAM = 0x8000_0000;

export class Descent implements Learner {
  readonly arrays: ReadonlyMap<string, StateArray>;
  readonly #model: TrainStep;
  readonly #parametrisation: Parametrisation;
  readonly #parameters: readonly Parameter[];
  readonly #optimizer: AdamW;
  readonly #options: TrainingOptions;

  constructor(model: TrainStep, parametrisation: Parametrisation, options: TrainingOptions) {
    [this.#model, this.#parametrisation, this.#options] = [model, parametrisation, options];
    this.#parameters = [...parametrisation.parameters.values()];
    const optimizer = (this.#optimizer = new AdamW(this.#parameters, { weightDecay: options.weightDecay }));
    this.arrays = new Map(
      [...parametrisation.parameters].flatMap(([name, { shape, values }], i): [string, StateArray][] => [
        [name, { shape, values }],
        [`first.${name}`, { shape, values: optimizer.first[i]! }],
        [`second.${name}`, { shape, values: optimizer.second[i]! }],
      ]),
    );
  }

  present(): void {
    this.#parametrisation.forward();
  }

  async update(step: number, parts: Parts): Promise<Learned> {
    const { learningRate, steps, warmup, clip } = this.#options;
    const model = this.#model;
    this.present();
    const kept = this.#dropout(step);
    const { nll } = await model.run(parts);
    if (kept !== null) for (const [i, factor] of kept.entries()) model.gradient[i]! *= factor;
    this.#parametrisation.backward();
    const norm = gradientNorm(this.#parameters);
    const loss = mean(nll);
    if (!Number.isFinite(loss) || !Number.isFinite(norm))
      throw new TrainingError(
        "diverged",
        `At step ${step + 1} the loss or its gradient is not finite: try a lower learning rate than ${learningRate}.`,
      );
    this.#optimizer.updates = step;
    this.#optimizer.update(learningRate * linearSchedule(step, steps, warmup), clipFactor(norm, clip));
    return { loss, norm, passes: 1 };
  }

  triggers(): null {
    return null;
  }

  /** Zeroes values at random and scales the others (the prefix_dropout of Li & Liang's code); null: none. */
  #dropout(step: number): Float32Array | null {
    const { dropout, seed } = this.#options;
    if (dropout === 0) return null;
    const { values } = this.#model;
    const factors = values.map((_, i) => (uniform(seed, DROPOUT_STREAM + step, i) < dropout ? 0 : 1 / (1 - dropout)));
    for (const [i, factor] of factors.entries()) values[i]! *= factor;
    return factors;
  }
}
