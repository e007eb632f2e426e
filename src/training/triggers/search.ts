/**
 * AutoPrompt (Shin et al. 2020): searches for tokens that lower the loss when they stand before every prompt. Each update
 * is at one position: the tokens that lower the loss most to first order (HotFlip, Ebrahimi et al. 2018) are tried on
 * the batch, and the best takes the place if it is better than the token there.
 */
import { TrainingError } from "../../errors.ts";
import type { TrainModel } from "../../model/train-model.ts";
import { mean, type Learned, type Learner, type Parts, type StateArray } from "../learner.ts";
import type { TriggerVocabulary } from "./vocabulary.ts";

type Model = Pick<TrainModel, "step" | "embeddings" | "products">;

export class TriggerSearch implements Learner {
  readonly arrays: ReadonlyMap<string, StateArray>;
  readonly #model: Model;
  readonly #vocabulary: TriggerVocabulary;
  readonly #candidates: number;
  /** Token ids; fp32, like all that a state has, holds them exactly. */
  readonly #ids: Float32Array;
  /** Their embeddings, `[T, E]`. */
  readonly #values: Float32Array;

  /** @param candidates tokens that an update tries */
  constructor(model: Model, vocabulary: TriggerVocabulary, candidates: number) {
    [this.#model, this.#vocabulary, this.#candidates] = [model, vocabulary, candidates];
    const { shape, values } = model.step;
    this.#ids = new Float32Array(shape[0]!);
    this.#values = new Float32Array(values.length);
    this.arrays = new Map([
      ["triggers", { shape: [shape[0]!], values: this.#ids }],
      ["values", { shape, values: this.#values }],
    ]);
  }

  async begin(ids: readonly number[]): Promise<void> {
    this.#ids.set(ids);
    this.#values.set(await this.#model.embeddings(Int32Array.from(ids)));
  }

  present(): void {
    this.#model.step.values.set(this.#values);
  }

  triggers(): readonly number[] {
    return [...this.#ids];
  }

  async update(step: number, parts: Parts): Promise<Learned> {
    const { step: model } = this.#model;
    const [length, width] = model.shape as [number, number];
    this.present();
    const loss = mean((await model.run(parts)).nll);
    if (!Number.isFinite(loss)) throw new TrainingError("diverged", `At step ${step + 1} the loss is not finite.`);
    const norm = Math.sqrt(model.gradient.reduce((sum, value) => sum + value ** 2, 0));

    const position = step % length;
    const ids = await this.candidates(position);
    const rows = await this.#model.embeddings(ids);
    const rowOf = (index: number): Float32Array => rows.subarray(index * width, (index + 1) * width);
    let best = { loss, index: -1 };
    for (let index = 0; index < ids.length; index++) {
      model.values.set(rowOf(index), position * width);
      const tried = mean((await model.evaluate(parts)).nll);
      if (tried < best.loss) best = { loss: tried, index };
    }
    if (best.index >= 0) {
      this.#ids[position] = ids[best.index]!;
      this.#values.set(rowOf(best.index), position * width);
    }
    return { loss, norm, passes: 1 + ids.length / 3 };
  }

  /**
   * The tokens that by the model's gradient lower the loss most at a position, the best first. To first order, token w
   * in place of u changes the loss by (e_w - e_u) g, so their order is that of e_w g.
   */
  async candidates(position: number): Promise<Int32Array> {
    const { step: model } = this.#model;
    const width = model.shape[1]!;
    const products = await this.#model.products(model.gradient.subarray(position * width, (position + 1) * width));
    const ranked = this.#vocabulary.ids.slice().sort((a, b) => products[a]! - products[b]! || a - b);
    const ids = this.triggers();
    const found: number[] = [];
    for (const id of ranked) {
      if (found.length === this.#candidates) break;
      if (id !== ids[position] && this.#vocabulary.fits(ids.with(position, id))) found.push(id);
    }
    return Int32Array.from(found);
  }
}
