import { tooComplex } from "../limits.ts";
import type { State, Walk } from "./state.ts";
import { TokenMask } from "./token-mask.ts";
import type { Branches, TokenSet, TokenTree } from "./token-tree.ts";

/** Ways to read a node that cost as much as visiting it. */
const WAYS_PER_NODE = 8;

/** The part of a grammar that a walk needs. */
interface Steps {
  readonly tree: TokenTree;
  /** Work done so far. */
  readonly work: number;
  step(state: State, byte: number): State | null;
}

/**
 * Finds the tokens that may follow a state, in one walk over the token tree that leaves out what cannot follow. Inside
 * a JSON string the plain tokens are known beforehand, and only the others are walked. The walk can stop anywhere and
 * go on later.
 */
export class MaskWalk implements Walk {
  readonly #grammar: Steps;
  readonly #branches: Branches;
  readonly #shared: TokenSet | null;
  readonly #limit: number;
  readonly #found: number[] = [];
  /** By depth: the state before the byte there. */
  readonly #path: State[];
  #at = 0;
  /** Work that depends on nothing but the constraint and the vocabulary. */
  #counted = 0;
  #mask: TokenMask | null = null;

  constructor(grammar: Steps, state: State, limit: number) {
    const { tree } = grammar;
    const plainIsKnown = state.onlyRoom || state.room === Infinity;
    this.#grammar = grammar;
    this.#branches = plainIsKnown ? tree.special : tree.all;
    this.#shared = plainIsKnown ? tree.plainUpTo(state.room) : null;
    this.#limit = limit;
    this.#path = [state];
  }

  get mask(): TokenMask | null {
    return this.#mask;
  }

  /** @throws PrefixdError constraint_too_complex */
  run(units: number): number {
    const { tree } = this.#grammar;
    const { byte, depth, token, skip } = this.#branches;
    const path = this.#path;
    const before = this.#grammar.work;
    let visited = 0;
    let at = this.#at;
    while (at < byte.length && visited + this.#grammar.work - before < units) {
      visited++;
      const to = this.#grammar.step(path[depth[at]!]!, byte[at]!);
      if (to === null) {
        at = skip[at]!;
        continue;
      }
      this.#counted += 1 + Math.floor(to.configurations.length / WAYS_PER_NODE);
      path[depth[at]! + 1] = to;
      const id = token[at]!;
      if (id >= 0) {
        this.#found.push(id);
        const twins = tree.twins.get(id);
        if (twins !== undefined) this.#found.push(...twins);
      }
      at++;
    }
    this.#at = at;
    if (this.#counted > this.#limit) throw tooComplex("The tokens that may come next take too much work to find.");
    if (at >= byte.length) this.#mask = new TokenMask(tree.vocabSize, this.#found, this.#shared, this.#counted);
    return visited + this.#grammar.work - before;
  }
}
