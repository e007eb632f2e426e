import type { Grammar } from "./automaton/grammar.ts";
import type { State } from "./automaton/state.ts";
import type { TokenTree } from "./automaton/token-tree.ts";

/** Work of a trial, besides the mask of the beginning. */
const TRIAL_WORK = 200_000;
/** Most work between two yields, roughly: some milliseconds. */
export const SLICE = 8_000;

/**
 * Tries a new grammar: makes the mask of its beginning, which a request's first token needs, then writes a shortest
 * text token by token, with masks as far as a fixed amount of work allows. So a constraint that cannot be followed is
 * refused before it waits in a queue. Yields the work done, so that others can run in between.
 * @throws PrefixdError constraint_too_complex
 */
export function* tryGrammar(grammar: Grammar): Generator<number, void> {
  yield* makeMask(grammar, grammar.start);
  const text = grammar.shortestText ?? new Uint8Array(0);
  let state = grammar.start;
  let left = TRIAL_WORK;
  for (let at = 0; at < text.length; ) {
    const length = longestTokenAt(grammar.tree, text, at);
    const before = grammar.work;
    for (const byte of text.subarray(at, at + length)) {
      const next = grammar.step(state, byte);
      if (next === null) throw new Error("a shortest text is not accepted");
      state = next;
    }
    at += length;
    yield length + grammar.work - before;
    for (const work of left > 0 ? makeMask(grammar, state) : []) {
      left -= work;
      yield work;
    }
  }
  if (!state.complete) throw new Error("a shortest text is not complete");
}

function* makeMask(grammar: Grammar, state: State): Generator<number, void> {
  while (state.mask === null) yield grammar.workOn(state, SLICE);
}

/** Bytes of the longest token that the text goes on with. */
function longestTokenAt({ all, longest }: TokenTree, text: Uint8Array, from: number): number {
  let length = 1;
  for (let node = 0, depth = 0; node < all.byte.length && depth < longest; ) {
    if (all.depth[node] !== depth) break;
    if (all.byte[node] !== text[from + depth]) {
      node = all.skip[node]!;
      continue;
    }
    depth++;
    if (all.token[node]! >= 0) length = depth;
    node++;
  }
  return length;
}
