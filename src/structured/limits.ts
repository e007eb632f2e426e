import { PrefixdError } from "../errors.ts";

/**
 * What a constraint may cost. All limits count work or memory, never time, so that a request ends the same way on every
 * machine, with any neighbours.
 */
export interface ConstraintLimits {
  /** Bytes of the constraint as JSON. */
  readonly sourceBytes: number;
  /** States of the automaton that it is compiled to. */
  readonly states: number;
  /** Return states on the stack, about one for each level of nesting in the text. */
  readonly depth: number;
  /** Ways to read one text at the same time: configurations of the automaton, those that read nothing included. */
  readonly ways: number;
  /** Work of one token mask: nodes of the token tree that are visited, weighted by the ways to read them. */
  readonly maskWork: number;
  /** Work of all masks of one request. */
  readonly requestWork: number;
  /**
   * Bytes of states and masks that one compiled constraint keeps. When they are used up, they are dropped and made
   * again as needed.
   */
  readonly grammarBytes: number;
}

export const DEFAULT_LIMITS: ConstraintLimits = {
  sourceBytes: 32_768,
  states: 6_000,
  depth: 64,
  ways: 1024,
  maskWork: 2_000_000,
  requestWork: 200_000_000,
  grammarBytes: 8 * 1024 ** 2,
};

/** It is malformed, or no text can satisfy it. */
export const invalid = (detail: string): PrefixdError => new PrefixdError("constraint_invalid", detail);
/** It asks for something that cannot be enforced. */
export const unsupported = (detail: string): PrefixdError => new PrefixdError("constraint_unsupported", detail);
export const tooComplex = (detail: string): PrefixdError => new PrefixdError("constraint_too_complex", detail);
