/** What was found out about one device without trying it. */
export interface Findings {
  /** Lines to print. */
  readonly facts: readonly string[];
  /** One sentence for each thing that is missing, with how to get it. */
  readonly missing: readonly string[];
}
