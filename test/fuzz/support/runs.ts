/** How many cases are tried, and from which seed. A failure prints its seed, its path and the smallest counterexample found. */
import { randomInt } from "node:crypto";
import fc from "fast-check";
import type { Test } from "tap";

/** Cases of all properties together, by their shares of it; FUZZ_RUNS=200000 looks twenty times as long. */
const DEFAULT_RUNS = 10_000;
const RUNS = Number(process.env["FUZZ_RUNS"] ?? DEFAULT_RUNS);
/** Another one each time; FUZZ_SEED repeats one. */
const SEED = Number(process.env["FUZZ_SEED"] ?? randomInt(2 ** 31));
/** Searching and shrinking together, ms: below tap's own limit, which would hide the counterexample. */
const TIME_LIMIT = 200_000;

/** `share`: cases of a run of `DEFAULT_RUNS`. */
export function runsOf(share: number): number {
  return Math.max(1, Math.round((share * RUNS) / DEFAULT_RUNS));
}

/** Fails `t` unless the property holds for `share` (see `runsOf`) cases. `unbiased`: no more extremes than the arbitraries themselves make. */
export async function holds<T>(t: Test, share: number, property: fc.IAsyncProperty<T> | fc.IProperty<T>, { unbiased = false } = {}): Promise<void> {
  const numRuns = runsOf(share);
  t.comment(`${numRuns} cases, FUZZ_SEED=${SEED}`);
  const interruptAfterTimeLimit = TIME_LIMIT * Math.max(1, RUNS / DEFAULT_RUNS);
  t.setTimeout(interruptAfterTimeLimit + 60_000);
  const details = await fc.check(property as fc.IAsyncProperty<T>, { numRuns, seed: SEED, unbiased, interruptAfterTimeLimit, markInterruptAsFailure: true });
  if (details.failed) t.fail(`${String(details.errorInstance)}\n${fc.defaultReportMessage(details)}`);
  else t.equal(details.numRuns, numRuns, "all cases hold");
}
