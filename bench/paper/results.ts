/** Results of runs: one JSON object a line, added when a run has ended. */
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import { keyOf, type Run } from "./plan.ts";

export interface Scores {
  readonly bleu: number;
  readonly nist: number;
  readonly meteor: number;
  readonly rougeL: number;
  readonly cider?: number;
}

/** One prefix, by who trained it, who serves it, and PEFT. */
export interface Checks {
  /** Mean over the targets of the dev rows: as `prefixd train` wrote it, and by the server's log probabilities. */
  readonly servedLoss: number;
  /** PEFT's; and how many of the test answers (beam search) are the same text. */
  readonly peft?: { readonly loss: number; readonly same: number; readonly of: number };
}

export interface Result {
  readonly run: Run;
  /** How many values were trained. */
  readonly parameters: number;
  readonly devLoss: number;
  readonly scores?: Scores;
  /** Of test rows whose domain training has, and has not. */
  readonly seen?: Scores;
  readonly unseen?: Scores;
  readonly checks?: Checks;
}

export const RESULTS = new URL("../results/paper/runs.jsonl", import.meta.url);

export function readResults(file: string | URL = RESULTS): Result[] {
  if (!existsSync(file)) return [];
  const lines = readFileSync(file, "utf8").split("\n");
  return lines.filter((line) => line !== "").map((line) => JSON.parse(line) as Result);
}

export const addResult = (result: Result, file: string | URL = RESULTS): void =>
  appendFileSync(file, `${JSON.stringify(result)}\n`);

export const keysOf = (results: readonly Result[]): Set<string> => new Set(results.map(({ run }) => keyOf(run)));
