import { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";

/**
 * Assembles a JSON response from chunks: a single chunk as it is, several as a stream that builds each in its own turn
 * of the event loop, once the client has taken those before. Calls `check` before each further chunk; if it throws, the
 * connection is cut, since half a response must not look complete.
 */
export function answerOf(chunks: Generator<string, void>, check: () => void): string | Readable {
  const [first, second] = [chunks.next(), chunks.next()];
  if (second.done === true) return first.value ?? "";
  return Readable.from(inTurns([first.value ?? "", second.value], chunks, check), { objectMode: false });
}

async function* inTurns(
  begun: readonly string[],
  chunks: Generator<string, void>,
  check: () => void,
): AsyncGenerator<string, void> {
  yield* begun;
  for (;;) {
    await nextTurn();
    check();
    const { done, value } = chunks.next();
    if (done === true) return;
    yield value;
  }
}
