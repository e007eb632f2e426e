import type { Grammar } from "./automaton/grammar.ts";
import type { State } from "./automaton/state.ts";
import type { TokenMask } from "./automaton/token-mask.ts";
import { tooComplex } from "./limits.ts";

/** Work that a request's masks may still take: one for all of its sequences. */
export interface WorkLeft {
  units: number;
}

/** Where a sequence's text is within its constraint. Immutable: sequences that fork share it. */
export class Position {
  readonly #grammar: Grammar;
  readonly #state: State;
  readonly #left: WorkLeft;
  #charged = false;

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

  /** Whether a token, not EOS, may come next. @throws PrefixdError constraint_too_complex */
  allows(id: number): boolean {
    const { mask } = this.#state;
    return mask === null ? this.#grammar.advance(this.#state, id) !== null : mask.has(id);
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
   * Goes on finding the mask, for about `units` of work; returns the work done.
   * @throws PrefixdError constraint_too_complex
   */
  work(units: number): number {
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
