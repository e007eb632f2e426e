import type { Grammar } from "./automaton/grammar.ts";
import type { State } from "./automaton/state.ts";
import type { TokenMask } from "./automaton/token-mask.ts";
import { tooComplex } from "./limits.ts";

/** Work that a request's masks may still take: one for all of its sequences. */
export interface WorkLeft {
  units: number;
}

/** Work that trying single tokens may take before `work` is asked for: with many ways to read a text, dozens of tries take tens of milliseconds. */
const TRIES = 8_000;

/** Where a sequence's text is within its constraint. Immutable: sequences that fork share it. */
export class Position {
  readonly #grammar: Grammar;
  readonly #state: State;
  readonly #left: WorkLeft;
  #charged = false;
  /** Work left for trying single tokens. */
  #tries = TRIES;
  /** What trying them has found, where it took work. */
  #tried: Map<number, boolean> | null = null;

  constructor(grammar: Grammar, state: State, left: WorkLeft) {
    this.#grammar = grammar;
    this.#state = state;
    this.#left = left;
  }

  static start(grammar: Grammar, requestWork: number): Position {
    return new Position(grammar, grammar.start, { units: requestWork });
  }

  /** The text may end here. */
  get complete(): boolean {
    return this.#state.complete;
  }

  /** Nothing may follow. */
  get final(): boolean {
    return this.#state.final;
  }

  /** Whether a token, not EOS, may come next; null: that takes some `work` first. @throws PrefixdError constraint_too_complex */
  allows(id: number): boolean | null {
    const { mask } = this.#state;
    if (mask !== null) return mask.has(id);
    const known = this.#tried?.get(id);
    if (known !== undefined) return known;
    if (this.#tries <= 0) return null;
    const before = this.#grammar.work;
    const may = this.#grammar.advance(this.#state, id) !== null;
    const cost = this.#grammar.work - before;
    this.#tries -= cost;
    if (cost > 0) (this.#tried ??= new Map()).set(id, may);
    return may;
  }

  /** The position after a token that may come. @throws PrefixdError constraint_too_complex */
  after(id: number): Position {
    const next = this.#grammar.advance(this.#state, id);
    if (next === null) throw new Error(`token ${id} may not come here`);
    return new Position(this.#grammar, next, this.#left);
  }

  /** Whether `mask` is known. */
  get ready(): boolean {
    return this.#state.mask !== null;
  }

  /**
   * Allows `units` of work for more tries, if these were used up; else goes on finding the mask. Returns the work done, or allowed.
   * @throws PrefixdError constraint_too_complex
   */
  work(units: number): number {
    if (this.#tries <= 0) return (this.#tries = units);
    return this.#grammar.workOn(this.#state, units);
  }

  /**
   * All tokens that may come next, EOS aside; only if `ready`. Charges the request with the work, also where another
   * has done it, so that it ends the same way whatever is cached.
   * @throws PrefixdError constraint_too_complex
   */
  get mask(): TokenMask {
    const { mask } = this.#state;
    if (mask === null) throw new Error("the mask is not known yet");
    if (!this.#charged) {
      this.#charged = true;
      this.#left.units -= mask.work;
      if (this.#left.units < 0)
        throw tooComplex("Following it takes this request more work than one request may take.");
    }
    return mask;
  }
}
