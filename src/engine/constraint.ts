/** What may come next in a sequence whose text is constrained; the engine does not know why. */

/** The tokens that may come next, EOS aside. */
export interface TokenMask {
  /** In ascending order; null: too many to list. */
  readonly ids: Int32Array | null;
  has(id: number): boolean;
}

/**
 * Where a sequence is within its constraint. Immutable, so that forks share it. All but the getters may throw a
 * PrefixdError that ends the request.
 */
export interface TokenConstraint {
  /** The text may end here, so EOS may come. */
  readonly complete: boolean;
  /** Nothing may follow: the sequence ends at once. */
  readonly final: boolean;
  /** Whether a token, not EOS, may come next; null: that takes some `work` first. Known for a request's first token. */
  allows(id: number): boolean | null;
  /** The constraint after a token that may come. */
  after(id: number): TokenConstraint;
  /** Whether `mask` is known. It is for a request's first token. */
  readonly ready: boolean;
  /** Goes on finding what `allows` could not tell, or the mask, for about `units` of work; returns the work done. */
  work(units: number): number;
  /** Only if `ready`. */
  readonly mask: TokenMask;
}

/**
 * Thrown where a choice needs a mask that is not known yet. Nothing has changed: after some `work` the choice can be
 * tried again.
 */
export class MaskPending extends Error {
  override readonly name = "MaskPending";
}

/** Work that is charged like one generated token: it takes about as long as a row of a small model's step. */
export const WORK_PER_TOKEN = 5_000;
