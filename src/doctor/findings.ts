/** What was found out about a device without trying it. */
export interface Findings {
  /** Lines to print. */
  readonly facts: readonly string[];
  /** One sentence per missing thing, with how to get it. */
  readonly missing: readonly string[];
}
