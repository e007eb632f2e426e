/** Detects prefixes whose values are finite but make the model overflow. */
import { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";
import type { ModelRunner, StepOutput } from "./runner.ts";
import type { SideRun } from "./side-run.ts";
import { NotFiniteError, Row } from "./sampling/logits-row.ts";

/**
 * The largest half-precision number. Trained keys and values are orders of magnitude smaller. Values up to here are
 * finite on every device and cannot make the model overflow in fp32: attention averages values, the layer norms behind
 * it can square numbers up to 1.8e19, and a score is a key times a query that a layer norm has bounded. So if the
 * model's numbers are not finite, a larger value is to blame, or the machine.
 */
const LARGEST_SAFE = 65504;
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
