import type { Comparison } from "./compare/comparison.ts";
import type { Session } from "./session.ts";

/** What every page is given. */
export interface PageProps {
  readonly session: Session;
  /** Kept while other pages are open. */
  readonly comparison: Comparison;
}
