/** What a request may ask for, compiled for one vocabulary. */
import { finish, type Automaton } from "./automaton/automaton.ts";
import { mayBeginWith } from "./automaton/beginnings.ts";
import { Grammar } from "./automaton/grammar.ts";
import { Network, type Rule } from "./automaton/network.ts";
import type { TokenTree } from "./automaton/token-tree.ts";
import { invalid, tooComplex, type ConstraintLimits } from "./limits.ts";
import { drawRegex } from "./regex/draw.ts";
import { parseRegex } from "./regex/parser.ts";
import { compileSchema } from "./schema/compile.ts";

/** The answer is one of these texts, matches this regular expression as a whole, or is JSON of this schema. */
export type ConstraintForm =
  | { readonly kind: "choice"; readonly texts: readonly string[] }
  | { readonly kind: "regex"; readonly source: string }
  | { readonly kind: "json"; readonly schema: unknown };

export interface ConstraintSpec {
  readonly form: ConstraintForm;
  /**
   * One space may come first, which is no part of the answer's text. No effect where the text may begin with a space
   * itself.
   */
  readonly leadingSpace: boolean;
}

/** Deepest nesting of a schema, in objects and arrays. */
const MAX_NESTING = 100;
const SPACE = 0x20;

export interface CompiledConstraint {
  readonly grammar: Grammar;
  /** A first space is not part of the text. */
  readonly dropsSpace: boolean;
}

/** A constraint as an automaton, not yet for a vocabulary. */
export interface DrawnConstraint {
  readonly automaton: Automaton;
  readonly dropsSpace: boolean;
}

/**
 * The first half of compiling, bounded by the limits of source and states, like the second.
 * @throws PrefixdError constraint_invalid, constraint_unsupported, constraint_too_complex
 */
export function drawConstraint(
  { form, leadingSpace }: ConstraintSpec,
  tree: TokenTree,
  limits: ConstraintLimits,
): DrawnConstraint {
  if (form.kind === "json") checkNesting(form.schema);
  const { net, root } = drawForm(form, limits);
  const dropsSpace = leadingSpace && tree.writable[SPACE] === 1 && !mayBeginWith(net, root, SPACE);
  return { automaton: finish(net, dropsSpace ? afterSpace(net, root) : root), dropsSpace };
}

/**
 * The second half.
 * @param longestText bytes of the longest answer that the model can give
 * @throws PrefixdError constraint_invalid, constraint_too_complex
 */
export function grammarOf(
  { automaton, dropsSpace }: DrawnConstraint,
  tree: TokenTree,
  limits: ConstraintLimits,
  longestText: number,
): CompiledConstraint {
  const grammar = new Grammar(automaton, tree, limits, longestText);
  if (grammar.shortestText === null)
    throw invalid(
      "No text satisfies it, or none that this model can write: it would be too long, too deeply nested, or need bytes that no token has.",
    );
  const { start } = grammar;
  const begin = dropsSpace ? (grammar.step(start, SPACE) ?? start) : start;
  if (begin.final) throw invalid("Only the empty text satisfies it, for which no model is needed.");
  return { grammar, dropsSpace };
}

function drawForm(form: ConstraintForm, { states }: ConstraintLimits): { net: Network; root: Rule } {
  if (form.kind === "json") return compileSchema(form.schema, states);
  const net = new Network(states);
  const root = net.rule();
  if (form.kind === "choice") net.oneOf(root.start, form.texts, root.end);
  else drawRegex(net, parseRegex(form.source, "whole"), root.start, root.end, "plain");
  return { net, root };
}

function afterSpace(net: Network, root: Rule): Rule {
  const rule = net.rule();
  const begin = net.state();
  net.range(rule.start, SPACE, SPACE, begin);
  net.jump(rule.start, begin);
  net.call(begin, root, rule.end);
  return rule;
}

/** @throws PrefixdError constraint_too_complex */
function checkNesting(schema: unknown): void {
  const open: { value: unknown; depth: number }[] = [{ value: schema, depth: 0 }];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const { value, depth } = next;
    if (typeof value !== "object" || value === null) continue;
    if (depth > MAX_NESTING) throw tooComplex(`The schema is nested deeper than ${MAX_NESTING} levels.`);
    for (const item of Object.values(value)) open.push({ value: item, depth: depth + 1 });
  }
}
