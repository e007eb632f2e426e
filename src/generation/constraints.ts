/** Compiled constraints of users' requests. */
import { createHash } from "node:crypto";
import { LRUCache } from "lru-cache";
import { PrefixdError, type ErrorCode } from "../errors.ts";
import { TokenTree } from "../structured/automaton/token-tree.ts";
import { drawConstraint, grammarOf, type CompiledConstraint, type ConstraintSpec } from "../structured/constraint.ts";
import { tooComplex, type ConstraintLimits } from "../structured/limits.ts";
import { Position, type WorkLeft } from "../structured/position.ts";
import { SLICE, tryGrammar } from "../structured/trial.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { CompileTurns } from "./compile-turns.ts";

export interface ConstraintsOptions {
  readonly tokenizer: Pick<Tokenizer, "vocabSize" | "longestToken" | "bytesOf">;
  readonly eosIds: readonly number[];
  /** n_positions of the model. */
  readonly positions: number;
  readonly limits: ConstraintLimits;
  readonly cacheBytes: number;
  readonly observer?: ConstraintObserver;
}

export interface ConstraintObserver {
  /** A constraint was compiled and tried in so many seconds, waits for other work included. */
  constraintCompiled(seconds: number): void;
  constraintRefused(code: ErrorCode): void;
}

export interface ConstraintCacheStats {
  readonly hits: number;
  readonly misses: number;
  readonly entries: number;
  readonly bytes: number;
}

/** A constraint that a request can be submitted with. */
export class PreparedConstraint {
  readonly dropsSpace: boolean;
  /** Work that it took now; 0 if it was cached. */
  readonly preparation: number;
  readonly #compiled: CompiledConstraint;
  readonly #left: WorkLeft;

  constructor(compiled: CompiledConstraint, preparation: number, requestWork: number) {
    this.#compiled = compiled;
    this.dropsSpace = compiled.dropsSpace;
    this.preparation = preparation;
    this.#left = { units: requestWork };
  }

  /** The beginning of every answer of the request. */
  start(): Position {
    const { grammar } = this.#compiled;
    return new Position(grammar, grammar.start, this.#left);
  }
}

/**
 * Compiles constraints and keeps them, by user: how long an answer takes must not tell what another user has sent. The
 * vocabulary is laid out once, in some tenths of a second for GPT-2's.
 */
export class Constraints {
  readonly #options: ConstraintsOptions;
  readonly #tree: TokenTree;
  readonly #longestText: number;
  readonly #cache: LRUCache<string, CompiledConstraint>;
  readonly #turns = new CompileTurns();
  /** Rises with every `forget`: what was begun before is not kept. */
  #epoch = 0;
  #hits = 0;
  #misses = 0;

  constructor(options: ConstraintsOptions) {
    const { tokenizer, eosIds, positions, cacheBytes } = options;
    this.#options = options;
    // EOS ends a text, whatever it looks like.
    const bytes = Array.from({ length: tokenizer.vocabSize }, (_, id) =>
      eosIds.includes(id) ? new Uint8Array(0) : tokenizer.bytesOf(id),
    );
    this.#tree = new TokenTree(bytes);
    this.#longestText = positions * this.#tree.longest;
    this.#cache = new LRUCache({ maxSize: Math.max(1, cacheBytes), sizeCalculation: ({ grammar }) => grammar.bytes });
  }

  /**
   * Compiles a constraint, or finds it compiled. Lets others run in between.
   * @param goOn called at the beginning of each step; throws if nobody waits for it any more
   * @throws PrefixdError constraint_invalid, constraint_unsupported, constraint_too_complex; what `goOn` throws
   */
  async prepare(user: string, spec: ConstraintSpec, goOn: () => void = () => undefined): Promise<PreparedConstraint> {
    const { limits, observer } = this.#options;
    const epoch = this.#epoch;
    try {
      const source = JSON.stringify(spec);
      if (Buffer.byteLength(source) > limits.sourceBytes)
        throw tooComplex(`It has more than ${limits.sourceBytes} bytes as JSON.`);
      const key = `${user}\0${createHash("sha256").update(source).digest("hex")}`;
      const cached = this.#cached(key);
      if (cached !== null) return cached;
      // Another of the user's requests may bring the same, and compile it meanwhile.
      return await this.#turns.inOrder(
        user,
        async () => this.#cached(key) ?? (await this.#compile(key, spec, epoch, goOn)),
      );
    } catch (error) {
      if (error instanceof PrefixdError) observer?.constraintRefused(error.code);
      throw error;
    }
  }

  /** Drops what a removed user has sent; null: all. */
  forget(user: string | null): void {
    this.#epoch++;
    for (const key of [...this.#cache.keys()])
      if (user === null || key.startsWith(`${user}\0`)) this.#cache.delete(key);
  }

  stats(): ConstraintCacheStats {
    return {
      hits: this.#hits,
      misses: this.#misses,
      entries: this.#cache.size,
      bytes: this.#cache.calculatedSize,
    };
  }

  #cached(key: string): PreparedConstraint | null {
    const cached = this.#cache.get(key);
    if (cached === undefined) return null;
    this.#hits++;
    // It has grown since.
    this.#cache.set(key, cached);
    return new PreparedConstraint(cached, 0, this.#options.limits.requestWork);
  }

  /** @param epoch when it was asked for */
  async #compile(key: string, spec: ConstraintSpec, epoch: number, goOn: () => void): Promise<PreparedConstraint> {
    const { limits, observer } = this.#options;
    const turn = async (): Promise<void> => {
      goOn();
      await this.#turns.next();
      goOn();
    };
    const started = performance.now();
    this.#misses++;
    await turn();
    const drawn = drawConstraint(spec, this.#tree, limits);
    await turn();
    const compiled = grammarOf(drawn, this.#tree, limits, this.#longestText);
    await turn();
    // A state takes about as long to draw as a unit of a walk.
    let preparation = compiled.grammar.states;
    let inThisTurn = 0;
    for (const work of tryGrammar(compiled.grammar)) {
      preparation += work;
      inThisTurn += work;
      if (inThisTurn < SLICE) continue;
      inThisTurn = 0;
      await turn();
    }
    observer?.constraintCompiled((performance.now() - started) / 1000);
    if (epoch === this.#epoch) this.#cache.set(key, compiled);
    return new PreparedConstraint(compiled, preparation, limits.requestWork);
  }
}
