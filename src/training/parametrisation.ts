/** What the optimizer changes, and how it makes the values that the model is given. */
import type { PrefixNetwork } from "../model/prefix-network.ts";
import type { TrainStep } from "../model/train-step.ts";
import type { Parameter } from "./optimizer.ts";

export interface Parametrisation {
  readonly parameters: ReadonlyMap<string, Parameter>;
  /** Parameters to `step.values`. */
  forward(): void;
  /** `step.gradient` to the parameters' gradients. */
  backward(): void;
}

/** The values themselves are trained. */
export function rawValues(step: Pick<TrainStep, "values" | "gradient" | "shape">): Parametrisation {
  // Not step.values: dropout changes them between the two passes.
  const values = new Float32Array(step.values.length);
  return {
    parameters: new Map([["values", { shape: step.shape, values, gradient: step.gradient }]]),
    forward: () => step.values.set(values),
    backward: () => {},
  };
}

/** The network that makes a prefix is trained. */
export function throughNetwork(network: PrefixNetwork): Parametrisation {
  return { parameters: network.tensors, forward: () => network.forward(), backward: () => network.backward() };
}
