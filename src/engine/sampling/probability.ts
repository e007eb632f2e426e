/**
 * Scores after temperature, their weights in a distribution, and what is known of the tokens that a list leaves out.
 */

const { fround } = Math;

/** The tokens that a WarpedTokens leaves out. */
export interface Outside {
  /** No token left out scores higher; -Infinity if none with any probability is left out. */
  readonly bound: number;
  /** Sum of their weights exp(score - best score in the list); NaN if not known. */
  readonly weight: number;
  /** `weight` is at most this far off; 0 only if nothing is left out. */
  readonly error: number;
  /**
   * Sum of weight times (score - best score), which gives the entropy, off by a share like that of `weight`; NaN if not
   * known.
   */
  readonly moment: number;
}

export const NOTHING: Outside = { bound: -Infinity, weight: 0, error: 0, moment: 0 };
/** Far more than a sum of probabilities differs from the sum of their fp32 values: by 2^-24 of it. */
export const NEAR = 2e-7;

export function tempered(score: number, temperature: number): number {
  return temperature === 1 ? score : fround(score / fround(temperature));
}

/** exp of the fp32 difference to the best score. */
export function weightOf(score: number, best: number): number {
  return Math.exp(fround(score - best));
}
