/** The values that training starts from. */
import { uniform } from "../engine/sampling/random.ts";
import { TrainingError } from "../errors.ts";
import type { FoldInput, KvTensor } from "../kv.ts";
import type { TrainModel } from "../model/train-model.ts";
import { AdamW } from "./optimizer.ts";
import type { Parametrisation } from "./parametrisation.ts";

/**
 * random: tokens drawn from the vocabulary, which train better than noise (Li & Liang 2021, figure 5; Lester et al. 2021,
 * section 3.2), but a network as PEFT starts it. normal: N(0, 1), as PEFT starts. tokens: what the model makes of them,
 * repeated or cut to fit. kv, fold: another prefix, or another prompt.
 */
export type Initial =
  | { readonly kind: "random" | "normal" }
  | { readonly kind: "tokens"; readonly ids: Int32Array }
  | { readonly kind: "kv"; readonly kv: KvTensor }
  | { readonly kind: "fold"; readonly fold: Extract<FoldInput, { kind: "embeddings" }> };

const NORMAL_STREAM = 2;
const TOKEN_STREAM = 3;
const LINEAR_STREAM = 4;

/** Steps and learning rate to fit the network to given keys and values (Li & Liang's code for little data). */
const FIT_STEPS = 500;
const FIT_RATE = 1e-3;

/**
 * Sets the parameters. With a network, given values are approximated: `onFit` gets the root of the mean squared error.
 * @throws TrainingError `options_invalid` if the other prefix has another length or kind; OrtError
 */
export async function setInitial(
  model: TrainModel,
  parametrisation: Parametrisation,
  initial: Initial,
  seed: number,
  onFit: (error: number) => void = () => {},
): Promise<void> {
  const { step, network } = model;
  if (network !== null && (initial.kind === "random" || initial.kind === "normal"))
    return randomNetwork(parametrisation, seed);
  const values =
    step.options.kind === "prompt"
      ? await promptValues(model, initial, seed)
      : await prefixValues(model, initial, seed);
  if (network === null) parametrisation.parameters.get("values")!.values.set(values);
  else {
    randomNetwork(parametrisation, seed);
    onFit(fitNetwork(model, parametrisation, values));
  }
}

async function prefixValues(model: TrainModel, initial: Initial, seed: number): Promise<Float32Array> {
  const { virtualTokens } = model.step.options;
  switch (initial.kind) {
    case "random":
      return (await model.fold({ kind: "tokens", ids: randomTokens(model, seed) })).data;
    case "normal":
      return noise(model, seed);
    case "tokens":
      return (await model.fold({ kind: "tokens", ids: repeated(initial.ids, virtualTokens) })).data;
    case "kv":
      checkLength(initial.kv.length, virtualTokens);
      return initial.kv.data;
    case "fold":
      checkLength(initial.fold.length, virtualTokens);
      return (await model.fold(initial.fold)).data;
  }
}

async function promptValues(model: TrainModel, initial: Initial, seed: number): Promise<Float32Array> {
  const { virtualTokens } = model.step.options;
  switch (initial.kind) {
    case "random":
      return model.embeddings(randomTokens(model, seed));
    case "normal":
      return noise(model, seed);
    case "tokens":
      return model.embeddings(repeated(initial.ids, virtualTokens));
    case "kv":
      throw new TrainingError("options_invalid", "A prompt cannot start from a prefix: it has only embeddings.");
    case "fold":
      checkLength(initial.fold.length, virtualTokens);
      return initial.fold.data;
  }
}

function checkLength(length: number, virtualTokens: number): void {
  if (length !== virtualTokens)
    throw new TrainingError(
      "options_invalid",
      `The initial prefix has ${length} virtual tokens, but ${virtualTokens} are to be trained.`,
    );
}

const noise = ({ step }: TrainModel, seed: number): Float32Array => step.values.map((_, i) => normal(seed, i));

/** As many as the prefix has virtual ones, each drawn from the whole vocabulary. */
const randomTokens = ({ step, shape }: TrainModel, seed: number): Int32Array =>
  Int32Array.from({ length: step.options.virtualTokens }, (_, i) =>
    Math.floor(uniform(seed, TOKEN_STREAM, i) * shape.vocabSize),
  );

const repeated = (ids: Int32Array, length: number): Int32Array =>
  Int32Array.from({ length }, (_, i) => ids[i % ids.length]!);

/** Standard normal number `index` (Box and Muller). */
function normal(seed: number, index: number): number {
  const [a, b] = [uniform(seed, NORMAL_STREAM, 2 * index), uniform(seed, NORMAL_STREAM, 2 * index + 1)];
  return Math.sqrt(-2 * Math.log(1 - a)) * Math.cos(2 * Math.PI * b);
}

/** torch's nn.Embedding and nn.Linear: N(0, 1), and uniform within 1 / sqrt(inputs). */
function randomNetwork({ parameters }: Parametrisation, seed: number): void {
  let drawn = 0;
  for (const [name, { values }] of parameters) {
    if (name === "embedding.weight") values.forEach((_, i) => (values[i] = normal(seed, i)));
    else {
      const inputs = parameters.get(name.replace(/\.bias$/, ".weight"))!.shape[1]!;
      const bound = 1 / Math.sqrt(inputs);
      values.forEach((_, i) => (values[i] = (2 * uniform(seed, LINEAR_STREAM, drawn + i) - 1) * bound));
      drawn += values.length;
    }
  }
}

/** Least squares; the embedding stays as it is. Returns the root of the mean squared error. */
function fitNetwork({ step }: TrainModel, parametrisation: Parametrisation, target: Float32Array): number {
  const linear = [...parametrisation.parameters].filter(([name]) => name !== "embedding.weight");
  const optimizer = new AdamW(linear.map(([, parameter]) => parameter));
  for (let fit = 0; fit < FIT_STEPS; fit++) {
    parametrisation.forward();
    for (let i = 0; i < target.length; i++) step.gradient[i] = (2 * (step.values[i]! - target[i]!)) / target.length;
    parametrisation.backward();
    optimizer.update(FIT_RATE);
  }
  parametrisation.forward();
  return Math.sqrt(target.reduce((sum, value, i) => sum + (step.values[i]! - value) ** 2, 0) / target.length);
}
