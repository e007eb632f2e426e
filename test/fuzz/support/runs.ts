/** How many cases are tried, and from which seed. A failure prints its seed, its path and the smallest counterexample found. */
import { randomInt } from "node:crypto";
import fc from "fast-check";
import type { Test } from "tap";
import { effort } from "../../support/effort.ts";

/** The number that the properties' shares add up to. */
const ALL_SHARES = 10_000;
/** Cases of all properties together; FUZZ_RUNS=200000 looks twenty times as long as CI. */
const RUNS = Number(process.env["FUZZ_RUNS"] ?? effort({ short: 500, long: 8_000 }));
/** Another one each time; FUZZ_SEED repeats one. */
export const SEED = Number(process.env["FUZZ_SEED"] ?? randomInt(2 ** 31));
/** Searching and shrinking together, ms: below tap's own limit, which would hide the counterexample. */
const TIME_LIMIT = 200_000;

/** `share`: of `ALL_SHARES`. */
export function runsOf(share: number): number {
  return Math.max(1, Math.round((share * RUNS) / ALL_SHARES));
}

/** Fails `t` unless the property holds for `share` (see `runsOf`) cases. `unbiased`: no more extremes than the arbitraries themselves make. */
export async function holds<T>(
  t: Test,
  share: number,
  property: fc.IAsyncProperty<T> | fc.IProperty<T>,
  { unbiased = false } = {},
): Promise<void> {
  const numRuns = runsOf(share);
  t.comment(`${numRuns} cases, FUZZ_SEED=${SEED}`);
  const interruptAfterTimeLimit = TIME_LIMIT * Math.max(1, RUNS / ALL_SHARES);
  t.setTimeout(interruptAfterTimeLimit + 60_000);
  const details = await fc.check(property as fc.IAsyncProperty<T>, {
    numRuns,
    seed: SEED,
    unbiased,
    interruptAfterTimeLimit,
    markInterruptAsFailure: true,
  });
  if (details.failed) t.fail(`${String(details.errorInstance)}\n${fc.defaultReportMessage(details)}`);
  else t.equal(details.numRuns, numRuns, "all cases hold");
}
