/** Finds the tests that a run has skipped, from each file's TAP. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Parser, type EventLog } from "tap-parser";
import { reasonFor, REQUIREMENTS, type Requirement, type RequirementName } from "./requirements.ts";

export interface Skip {
  /** File, then the enclosing tests and the test. */
  readonly test: string;
  readonly reason: string;
}

/** Reason for a test that passed without doing anything: it should have said why. */
export const NOTHING_ASSERTED = "asserts nothing";

/** `folder` has a file `<test file>.tap` for each test file that ran, from tap's --output-dir. */
export function skipsIn(folder: string): Skip[] {
  const files = readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".tap"));
  return files
    .sort()
    .flatMap((file) => skipsOf(file.slice(0, -".tap".length), readFileSync(join(folder, file), "utf8")));
}

/** Skipped tests and assertions of one file's TAP, todo ones, and tests without an assertion. */
export function skipsOf(file: string, tap: string): Skip[] {
  const log = Parser.parse(tap);
  return isEmpty(log) ? [{ test: file, reason: reasonOfPlan(log) ?? NOTHING_ASSERTED }] : skipsWithin(file, log);
}

function skipsWithin(parent: string, log: EventLog): Skip[] {
  const skips: Skip[] = [];
  // A subtest directly precedes the test point that sums it up.
  let subtest: EventLog | null = null;
  for (const event of log) {
    if (event[0] === "child") subtest = event[1];
    if (event[0] !== "assert") continue;
    const { skip, todo, name } = event[1];
    const test = `${parent} > ${name.replace(/\\(.)/g, "$1")}`;
    if (skip !== false) skips.push({ test, reason: skip === true ? "no reason given" : skip });
    else if (todo !== false) skips.push({ test, reason: todo === true ? "to do" : `to do: ${todo}` });
    else if (subtest !== null)
      skips.push(...(isEmpty(subtest) ? [{ test, reason: NOTHING_ASSERTED }] : skipsWithin(test, subtest)));
    subtest = null;
  }
  return skips;
}

const isEmpty = (log: EventLog): boolean => !log.some(([what]) => what === "assert" || what === "child");

function reasonOfPlan(log: EventLog): string | undefined {
  for (const event of log) if (event[0] === "plan" && event[1].comment) return event[1].comment;
  return undefined;
}

/** Groups by reason; a test that lacks two things is listed under both. */
export function byReason(skips: readonly Skip[]): Map<string, string[]> {
  const tests = new Map<string, string[]>();
  for (const { test, reason } of skips)
    for (const part of partsOf(reason)) tests.set(part, [...(tests.get(part) ?? []), test]);
  return tests;
}

/** Skips not allowed in CI: for lack of something not on the list of what CI may lack, or for an unknown reason. */
export function unlisted(skips: readonly Skip[]): Skip[] {
  const allowed = new Set(
    (Object.keys(REQUIREMENTS) as RequirementName[])
      .filter((name) => (REQUIREMENTS[name] as Requirement).mayLackInCi !== undefined)
      .map(reasonFor),
  );
  return skips.filter(({ reason }) => !partsOf(reason).every((part) => allowed.has(part)));
}

const partsOf = (reason: string): string[] => reason.split("; ");
