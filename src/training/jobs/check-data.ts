import { setImmediate as nextTurn } from "node:timers/promises";
import { PrefixdError } from "../../errors.ts";
import { LineDefect, parseExampleLine } from "../data/example-line.ts";
import { MAX_LINE_BYTES } from "../data/examples.ts";
import { linesOf } from "../data/lines.ts";

/** The largest share of bad lines, as in `prefixd train`. */
export const BAD_LINES = 0.01;
/** Checking stops after so many bad lines if they are too many already. */
const MANY_BAD_LINES = 100;
/** Bad lines that an error names. */
const NAMED = 5;
/** Milliseconds of work between turns of the event loop. */
const TURN_MS = 4;

/**
 * Checks examples while they arrive, in bounded memory; what depends on the tokens is left to the training.
 * @throws PrefixdError `training_data_invalid` that names bad lines with their reasons, once there are too many or the
 * file has ended
 */
export async function checkData(chunks: AsyncIterable<Uint8Array>): Promise<void> {
  let [lines, bad] = [0, 0];
  const named: string[] = [];
  let until = performance.now() + TURN_MS;
  for await (const { number, bytes } of linesOf(chunks, MAX_LINE_BYTES)) {
    try {
      if (bytes === null) throw new LineDefect(`it is longer than ${MAX_LINE_BYTES} bytes`);
      if (parseExampleLine(bytes) !== null) lines++;
    } catch (error) {
      if (!(error instanceof LineDefect)) throw error;
      lines++;
      bad++;
      if (named.length < NAMED) named.push(`line ${number}: ${error.message}`);
      if (bad >= MANY_BAD_LINES && bad > BAD_LINES * lines) throw tooMany(bad, lines, named);
    }
    if (performance.now() > until) {
      await nextTurn();
      until = performance.now() + TURN_MS;
    }
  }
  if (bad > BAD_LINES * lines) throw tooMany(bad, lines, named);
  if (lines === 0) throw invalid("The file has no examples.");
}

function tooMany(bad: number, lines: number, named: readonly string[]): PrefixdError {
  return invalid(`${bad} of the first ${lines} lines are bad, more than ${100 * BAD_LINES} %: ${named.join("; ")}.`);
}

const invalid = (what: string): PrefixdError => new PrefixdError("training_data_invalid", what, { field: "file" });
