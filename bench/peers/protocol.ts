/**
 * What engines are asked to do beside each other, and the lines in which they are asked: each engine is a process of
 * its own.
 *
 *     driver:  ready decode-1 decode-8 ...     the works that it can do; before it, anything else is ignored
 *     bench:   run decode-8 16
 *     driver:  0.4711                          seconds of 16 counted units of that work, or: error MESSAGE
 *
 * A unit of `decode-R...` is one step of R rows with about CONTEXT tokens before it; a unit of `prefill-T` is a prompt
 * of T tokens up to its first token.
 */
import { createInterface } from "node:readline";

export const WORKS = ["decode-1", "decode-8", "decode-32", "decode-32-different", "prefill-64", "prefill-256"] as const;
export type Work = (typeof WORKS)[number];

/** Rows of a decode step, or tokens of a prompt. */
export const SIZE_OF: Readonly<Record<Work, number>> = {
  "decode-1": 1,
  "decode-8": 8,
  "decode-32": 32,
  "decode-32-different": 32,
  "prefill-64": 64,
  "prefill-256": 256,
};

/** Tokens in the cache halfway through the counted steps; virtual tokens count too. */
export const CONTEXT = 80;
/** Warm-up steps or prompts: another engine has just used the processor and its caches. */
export const UNCOUNTED = 2;
/**
 * Prompt length of a request with a prefix; the rest of CONTEXT is the prefix, so that little time goes into prompts.
 */
export const PROMPT = 8;
export const THREADS = 2;

/** Answers `run` lines until the input ends. */
export async function serveWork(works: Partial<Record<Work, (units: number) => Promise<number>>>): Promise<void> {
  process.stdout.write(`ready ${Object.keys(works).join(" ")}\n`);
  for await (const line of createInterface({ input: process.stdin })) {
    const [, work, units] = line.split(" ");
    try {
      process.stdout.write(`${await works[work as Work]!(Number(units))}\n`);
    } catch (error) {
      process.stdout.write(`error ${String(error).replaceAll("\n", " ")}\n`);
    }
  }
}

/**
 * Serves the works of an engine without prefixes: `units` steps of `rows` rows, or `units` prompts of `tokens` tokens,
 * in seconds.
 */
export function serveWithoutPrefixes(
  decode: (rows: number, units: number) => Promise<number>,
  prefill: (tokens: number, units: number) => Promise<number>,
): Promise<void> {
  return serveWork({
    "decode-1": (units) => decode(1, units),
    "decode-8": (units) => decode(8, units),
    "decode-32": (units) => decode(32, units),
    "prefill-64": (units) => prefill(64, units),
    "prefill-256": (units) => prefill(256, units),
  });
}
