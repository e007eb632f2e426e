import { Readable } from "node:stream";
import { setImmediate as nextTurn } from "node:timers/promises";

/**
 * A JSON answer out of its pieces: one piece as it is, several as a stream that makes each in a turn of the event loop of its own, when the
 * client has taken those before. `check` is called before each further piece; if it throws, the connection is cut: half an answer looks like none.
 */
export function answerOf(pieces: Generator<string, void>, check: () => void): string | Readable {
  const [first, second] = [pieces.next(), pieces.next()];
  if (second.done === true) return first.value ?? "";
  return Readable.from(inTurns([first.value ?? "", second.value], pieces, check), { objectMode: false });
}

async function* inTurns(
  begun: readonly string[],
  pieces: Generator<string, void>,
  check: () => void,
): AsyncGenerator<string, void> {
  yield* begun;
  for (;;) {
    await nextTurn();
    check();
    const { done, value } = pieces.next();
    if (done === true) return;
    yield value;
  }
}
