/** Detects prefixes whose values are finite but make the model overflow. */
import { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";
import type { ModelRunner, StepOutput } from "./runner.ts";
import type { SideRun } from "./side-run.ts";
import { NotFiniteError, Row } from "./sampling/logits-row.ts";

/**
 * Up to here a prefix's values are not to blame if the model overflows; those of the demo are 15 at most. Half
 * precision ends at 65,504: a value above this exceeds it where the weights that it is multiplied with add up to 256.
 * In fp32 only a value above 65,504 can be to blame: attention averages values, the layer norms behind it square
 * numbers up to 1.8e19, and a score is a key times a query that a layer norm has bounded. A machine that is at fault
 * there also fails requests without such a prefix.
 */
const LARGEST_SAFE = 256;
/** Any id will do: large values overflow whatever attends to them. */
const TRIAL_ID = 0;

/** Runs one token behind the prefix. `result` rejects with `prefix_overflows` if its logits are not finite. */
export function trialRun(runner: ModelRunner, prefix: KvTensor): SideRun<void> {
  let output: StepOutput | null = null;
  return {
    prefixLength: prefix.length,
    promptLength: 1,
    answers: "last",
    async feed() {
      runner.loadPrefix(runner.slots, prefix);
      output = await runner.prefill(runner.slots, prefix.length, Int32Array.of(TRIAL_ID), "last");
    },
    async result() {
      try {
        if (output !== null) new Row(output, 0);
      } catch (error) {
        throw error instanceof NotFiniteError ? overflows(largest(prefix)) : error;
      }
    },
  };
}

/** Turns `model_failed` into `prefix_overflows` where the prefix made the model's numbers overflow. */
export function blamed(error: PrefixdError, prefix: KvTensor | null): PrefixdError {
  if (prefix === null || !(error instanceof NotFiniteError)) return error;
  const magnitude = largest(prefix);
  return magnitude > LARGEST_SAFE ? overflows(magnitude) : error;
}

/** Computed only after a failure, once per prefix: it takes tens of milliseconds for the longest ones. */
const magnitudes = new WeakMap<KvTensor, number>();

function largest(prefix: KvTensor): number {
  let magnitude = magnitudes.get(prefix);
  if (magnitude === undefined) {
    magnitude = 0;
    for (const value of prefix.data) magnitude = Math.max(magnitude, Math.abs(value));
    magnitudes.set(prefix, magnitude);
  }
  return magnitude;
}

function overflows(magnitude: number): PrefixdError {
  return new PrefixdError(
    "prefix_overflows",
    `With this prefix, whose largest value is ${magnitude.toExponential(1)}, the model overflows; its values diverged in training, so train it again.`,
  );
}
