/** Compares what a device generated with what PEFT generated. */
import type { Precision } from "../model/graph-weights.ts";

/** One case of models/selftest/expected.json. */
export interface ExpectedCase {
  readonly id: string;
  readonly adapter: string | null;
  readonly prompt_ids: readonly number[];
  readonly max_new_tokens: number;
  readonly token_ids: readonly number[];
  readonly finish_reason: string;
  /** Each token's log probability before warping, fp32. */
  readonly token_logprobs: readonly number[];
}

export interface GeneratedCase {
  readonly ids: readonly number[];
  readonly logprobs: readonly number[];
  readonly reason: string;
}

export interface Comparison {
  /** null if all is as expected. */
  readonly problem: string | null;
  /** Requests that ran concurrently. */
  readonly requests: number;
  /** Over all generated tokens that equal the expected ones at their positions. */
  readonly largest_logprob_difference: number;
  readonly allowed_difference: number;
}

/**
 * fp32: sums in another order. fp16: 11 bits of mantissa through three layers; PyTorch in fp16 is off by 7e-3. int8:
 * see test/model/int8.test.ts.
 */
const ALLOWED: Readonly<Record<Precision, number>> = { fp32: 2e-3, fp16: 3e-2, int8: 0.3 };

export function compare(
  expected: readonly ExpectedCase[],
  generated: readonly GeneratedCase[],
  precision: Precision,
): Comparison {
  const allowed = ALLOWED[precision];
  let largest = 0;
  let problem: string | null = null;
  expected.forEach((item, index) => {
    const { ids, logprobs, reason } = generated[index]!;
    const differing = Array.from({ length: Math.max(ids.length, item.token_ids.length) }, (_, at) => at).find(
      (at) => ids[at] !== item.token_ids[at],
    );
    const same = differing ?? ids.length;
    for (let at = 0; at < same; at++) {
      const difference = Math.abs(logprobs[at]! - item.token_logprobs[at]!);
      // Treat a non-finite value as infinitely far off.
      largest = Math.max(largest, Number.isFinite(difference) ? difference : Infinity);
    }
    if (differing !== undefined)
      problem ??= `${item.id}: token ${differing} is ${ids[differing] ?? "missing"}, PEFT generated ${item.token_ids[differing] ?? "none"}`;
    else if (reason !== item.finish_reason)
      problem ??= `${item.id}: ended with ${reason}, PEFT with ${item.finish_reason}`;
  });
  if (largest > allowed)
    problem ??= `log probabilities differ from PEFT's by ${largest.toExponential(1)}, more than ${allowed}`;
  return { problem, requests: expected.length, largest_logprob_difference: largest, allowed_difference: allowed };
}
