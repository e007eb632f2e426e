import type { CodePoints } from "../automaton/code-points.ts";

/** A parsed regular expression. */
export type RegexNode =
  | { readonly kind: "set"; readonly set: CodePoints }
  | { readonly kind: "either"; readonly branches: readonly RegexNode[] }
  | { readonly kind: "sequence"; readonly items: readonly RegexNode[] }
  /** `max` may be Infinity. */
  | { readonly kind: "repeat"; readonly item: RegexNode; readonly min: number; readonly max: number };
