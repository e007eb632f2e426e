import type { Grammar } from "../../src/structured/automaton/grammar.ts";
import type { State } from "../../src/structured/automaton/state.ts";
import { TokenTree } from "../../src/structured/automaton/token-tree.ts";
import { drawConstraint, grammarOf, type ConstraintForm } from "../../src/structured/constraint.ts";
import { DEFAULT_LIMITS, type ConstraintLimits } from "../../src/structured/limits.ts";
import { tryGrammar } from "../../src/structured/trial.ts";
import { loadTokenizer, type Tokenizer } from "../../src/text/tokenizer.ts";

export const DEMO_VOCABULARY = 4096;
/** Bytes of the longest answer, for tests. */
export const LONGEST_TEXT = 50_000;

export const demoTokenizer = (): Promise<Tokenizer> =>
  loadTokenizer(new URL("../../models/demo", import.meta.url).pathname, DEMO_VOCABULARY);

export const treeOf = (tokenizer: Tokenizer): TokenTree =>
  new TokenTree(Array.from({ length: tokenizer.vocabSize }, (_, id) => tokenizer.bytesOf(id)));

export const untried = (form: ConstraintForm, tree: TokenTree, limits = DEFAULT_LIMITS): Grammar =>
  grammarOf(drawConstraint({ form, leadingSpace: false }, tree, limits), tree, limits, LONGEST_TEXT).grammar;

/** Compiles and tries, as for a request. */
export function compiled(form: ConstraintForm, tree: TokenTree, limits: ConstraintLimits = DEFAULT_LIMITS): Grammar {
  const grammar = untried(form, tree, limits);
  Array.from(tryGrammar(grammar));
  return grammar;
}

export function accepts(grammar: Grammar, ids: Iterable<number>): boolean {
  let state: State | null = grammar.start;
  for (const id of ids) if ((state = grammar.advance(state, id)) === null) return false;
  return state.complete;
}

export function acceptsBytes(grammar: Grammar, bytes: Uint8Array): boolean {
  let state: State | null = grammar.start;
  for (const byte of bytes) if ((state = grammar.step(state, byte)) === null) return false;
  return state.complete;
}

/** The mask of a state, made in steps of so many units of work. */
export function maskOf(grammar: Grammar, state: State, units = 1000): NonNullable<State["mask"]> {
  while (state.mask === null) grammar.workOn(state, units);
  return state.mask;
}

/** Ids that a mask allows. */
export function allowedIds(grammar: Grammar, state: State): number[] {
  const mask = maskOf(grammar, state);
  return mask.ids === null
    ? Array.from({ length: grammar.tree.vocabSize }, (_, id) => id).filter((id) => mask.has(id))
    : [...mask.ids];
}

/**
 * A text written token by token, chosen uniformly from what is allowed; after a while tokens that close something come more often. null if
 * it is not complete after `steps` tokens. Throws where nothing may come although the text is not complete.
 */
export function sampleText(grammar: Grammar, random: () => number, steps = 50): Uint8Array | null {
  const { bytes } = grammar.tree;
  const closes = (id: number): boolean =>
    bytes[id]!.length < 4 && bytes[id]!.some((byte) => '"]}'.includes(String.fromCharCode(byte)));
  const written: Uint8Array[] = [];
  let state = grammar.start;
  for (let step = 0; step < steps; step++) {
    if (state.complete && (state.final || random() < 0.5)) return Buffer.concat(written);
    const allowed = allowedIds(grammar, state);
    if (allowed.length === 0 && !state.complete) throw new Error("a dead end");
    if (allowed.length === 0) throw new Error("complete, and nothing may follow, but not final");
    const closing = step > 12 && random() < 0.7 ? allowed.filter(closes) : [];
    const from = closing.length > 0 ? closing : allowed;
    const id = from[Math.floor(random() * from.length)]!;
    written.push(bytes[id]!);
    state = grammar.advance(state, id)!;
  }
  return null;
}
