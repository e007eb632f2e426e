/** Prefixes of finite numbers that lead the model out of the range of its own: how they are found out. */
import { PrefixdError } from "../errors.ts";
import type { KvTensor } from "../kv.ts";
import type { ModelRunner, StepOutput } from "./runner.ts";
import type { SideRun } from "./side-run.ts";
import { NotFiniteError, Row } from "./sampling/logits-row.ts";

/**
 * The largest number of half precision. Trained keys and values are smaller by orders of magnitude. Up to here none is infinite on any device,
 * and in fp32 none can make the model overflow: what attention makes of values is a mean of them, and the layer norms behind it square numbers
 * up to 1.8e19; a score is a key times a query, which a layer norm has bounded. So numbers that are not finite are a larger one's fault, or
 * the machine's.
 */
const LARGEST_SAFE = 65504;
/** Any id will do: values overflow whatever attends to them. */
const TRIAL_ID = 0;

/** One token behind the prefix. Its result throws `prefix_overflows` where the token's logits are no numbers. */
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
    result() {
      try {
        if (output !== null) new Row(output, 0);
      } catch (error) {
        throw error instanceof NotFiniteError ? overflows(largest(prefix)) : error;
      }
    },
  };
}

/** What ends a request: where the model's numbers were not finite because of the prefix, `prefix_overflows` in place of `model_failed`. */
export function blamed(error: PrefixdError, prefix: KvTensor | null): PrefixdError {
  if (prefix === null || !(error instanceof NotFiniteError)) return error;
  const magnitude = largest(prefix);
  return magnitude > LARGEST_SAFE ? overflows(magnitude) : error;
}

/** Looked for when something has failed, once for each prefix: tens of milliseconds for the longest ones. */
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
    `With this prefix, whose largest value is ${magnitude.toExponential(1)}, the model's numbers are not finite; train it anew, its values have run away.`,
  );
}
