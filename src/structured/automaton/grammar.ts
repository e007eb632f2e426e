import { tooComplex, type ConstraintLimits } from "../limits.ts";
import type { Automaton } from "./automaton.ts";
import { MaskWalk } from "./mask-walk.ts";
import { needsOf, type Needs } from "./needs.ts";
import { State, type Configuration, type Stack } from "./state.ts";
import type { TokenTree } from "./token-tree.ts";

/** Of a configuration's key: how many stacks there can be. */
const STACKS = 2 ** 32;
/** Approximate bytes of an object with a few fields, and of an entry in a table. */
const [OBJECT, ENTRY] = [64, 48];

/** An automaton run over the tokens of one vocabulary. */
export class Grammar {
  readonly start: State;
  readonly tree: TokenTree;
  /** A shortest text; null: there is none within the limits. */
  readonly shortestText: Uint8Array | null;
  readonly #automaton: Automaton;
  readonly #limits: ConstraintLimits;
  readonly #needs: Needs;
  readonly #known = new Map<string, State>();
  readonly #stacks = new Map<string, Stack>();
  #stackIds = 0;
  /** Bytes of states, stacks and masks. */
  #kept = 0;
  /** Work done so far: configurations looked at. */
  #work = 0;

  /**
   * @param longestText bytes of the longest shortest text: no answer can be longer
   * @throws PrefixdError constraint_too_complex
   */
  constructor(automaton: Automaton, tree: TokenTree, limits: ConstraintLimits, longestText: number) {
    this.tree = tree;
    this.#automaton = automaton;
    this.#limits = limits;
    this.#needs = needsOf(automaton, tree.writable, { depth: limits.depth, bytes: longestText });
    this.shortestText = this.#needs.shortestText;
    this.start = this.#close([automaton.root.start], [null]);
  }

  /** States of its automaton. */
  get states(): number {
    return this.#automaton.size;
  }

  get work(): number {
    return this.#work;
  }

  /** Approximate bytes that it takes. */
  get bytes(): number {
    return this.#automaton.bytes + 4 * this.#needs.depth.length + this.#kept;
  }

  /** The state after one more byte; null: it may not come. @throws PrefixdError constraint_too_complex */
  step(state: State, byte: number): State | null {
    const of = this.#automaton.classOf[byte]!;
    const known = state.next[of];
    if (known !== undefined) return known;
    const { at, items } = this.#automaton.edges;
    const states: number[] = [];
    const stacks: (Stack | null)[] = [];
    for (const { state: from, stack } of state.configurations) {
      for (let i = at[from]!; i < at[from + 1]!; i += 3) {
        if (of < items[i]! || of > items[i + 1]!) continue;
        states.push(items[i + 2]!);
        stacks.push(stack);
      }
    }
    this.#work += state.configurations.length;
    const to = states.length === 0 ? null : this.#close(states, stacks);
    return (state.next[of] = to !== null && to.final && !to.complete ? null : to);
  }

  /** The state after one more token; null: it may not come. @throws PrefixdError constraint_too_complex */
  advance(state: State, id: number): State | null {
    let to: State | null = state;
    const bytes = this.tree.bytes[id] ?? [];
    if (bytes.length === 0) return null;
    for (const byte of bytes) {
      if (this.tree.writable[byte] !== 1) return null;
      to = this.step(to, byte);
      if (to === null) return null;
    }
    return to;
  }

  /**
   * Goes on with making the state's mask, for about `units` of work. Returns what it did. Afterwards the state has its
   * mask, or needs more.
   * @throws PrefixdError constraint_too_complex
   */
  workOn(state: State, units: number): number {
    if (state.mask !== null) return 0;
    state.walk ??= new MaskWalk(this, state, this.#limits.maskWork);
    const done = state.walk.run(units);
    state.mask = state.walk.mask;
    if (state.mask !== null) {
      state.walk = null;
      this.#kept += state.mask.bytes + OBJECT;
    }
    return done;
  }

  /** As in RE2, full tables start anew, also in the middle of a walk. States in use stay valid; what lies beyond them is found again. */
  #forgetIfFull(): void {
    if (this.#kept <= this.#limits.grammarBytes) return;
    for (const state of this.#known.values()) state.next.fill(undefined);
    const [start] = this.#known;
    this.#known.clear();
    if (start !== undefined) this.#known.set(...start);
    this.#stacks.clear();
    this.#kept = 0;
  }

  /** The state of all configurations that these lead to without reading a byte. */
  #close(states: number[], stacks: (Stack | null)[]): State {
    const { jumps, calls, edges, isEnd, isTail, room: roomOf, characterStart } = this.#automaton;
    const { depth: needed } = this.#needs;
    const { depth: maxDepth, ways } = this.#limits;
    const seen = new Set<number>();
    const found: Configuration[] = [];
    let complete = false;
    let room = -1;
    const visit = (state: number, stack: Stack | null): void => {
      states.push(state);
      stacks.push(stack);
    };
    while (states.length > 0) {
      const state = states.pop()!;
      const stack = stacks.pop()!;
      const key = state * STACKS + (stack?.id ?? 0);
      const depth = stack?.depth ?? 0;
      if (seen.has(key) || depth + needed[state]! > maxDepth) continue;
      seen.add(key);
      if (seen.size > ways) throw tooComplex(`There are more than ${ways} ways to read the same text.`);
      if (edges.at[state]! < edges.at[state + 1]!) found.push({ state, stack, key });
      for (let i = jumps.at[state]!; i < jumps.at[state + 1]!; i++) visit(jumps.items[i]!, stack);
      for (let i = calls.at[state]!; i < calls.at[state + 1]!; i += 2) {
        const [start, back] = [calls.items[i]!, calls.items[i + 1]!];
        if (isTail[back] === 1) {
          visit(start, stack);
          continue;
        }
        if (depth + Math.max(1 + needed[start]!, needed[back]!) > maxDepth) continue;
        visit(start, this.#push(stack, back));
        if (start === characterStart) room = Math.max(room, roomOf[state]!);
      }
      if (isEnd[state] === 0) continue;
      if (stack === null) complete = true;
      else visit(stack.back, stack.up);
    }
    this.#work += seen.size;
    found.sort((a, b) => a.key - b.key);
    const name = `${found.map(({ key }) => key).join()}${complete ? "!" : ""}`;
    let known = this.#known.get(name);
    if (known === undefined) {
      this.#forgetIfFull();
      known = new State(found, complete, room, room >= 0 && this.#readOnlyStrings(found), this.#automaton.classes);
      this.#known.set(name, known);
      this.#kept += OBJECT * (1 + found.length) + ENTRY + 8 * this.#automaton.classes + name.length;
    }
    return known;
  }

  /** Whether all of these read characters of strings whose room is known, or what is none. */
  #readOnlyStrings(configurations: readonly Configuration[]): boolean {
    const { characterStart, room } = this.#automaton;
    return configurations.every(({ state, stack }) =>
      state === characterStart ? stack !== null && room[stack.back]! >= 0 : this.#endsString(state),
    );
  }

  /** Whether a state reads nothing but the quote that ends a string. */
  #endsString(state: number): boolean {
    const { edges, classOf } = this.#automaton;
    const quote = classOf[0x22]!;
    for (let i = edges.at[state]!; i < edges.at[state + 1]!; i += 3)
      if (edges.items[i] !== quote || edges.items[i + 1] !== quote) return false;
    return true;
  }

  #push(up: Stack | null, back: number): Stack {
    const key = `${up?.id ?? 0}:${back}`;
    let stack = this.#stacks.get(key);
    if (stack === undefined) {
      stack = { id: ++this.#stackIds, back, up, depth: (up?.depth ?? 0) + 1 };
      this.#stacks.set(key, stack);
      this.#kept += OBJECT + ENTRY;
    }
    return stack;
  }
}
