/** What a request may ask for, compiled for one vocabulary. */
import { finish } from "./automaton/automaton.ts";
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
  /** One space may come first, which is no part of the answer's text. No effect where the text may begin with a space itself. */
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

/**
 * Compiles a constraint. Synchronous, and bounded by the limits of source and states.
 * @param longestText bytes of the longest answer that the model can give
 * @throws PrefixdError constraint_invalid, constraint_unsupported, constraint_too_complex
 */
export function compileConstraint(
  { form, leadingSpace }: ConstraintSpec,
  tree: TokenTree,
  limits: ConstraintLimits,
  longestText: number,
): CompiledConstraint {
  if (form.kind === "json") checkNesting(form.schema);
  const { net, root } = drawForm(form, limits);
  const make = (rule: Rule): Grammar => new Grammar(finish(net, rule), tree, limits, longestText);
  const grammar = make(root);
  const { shortestText } = grammar;
  if (shortestText === null)
    throw invalid(
      "No text satisfies it, or none that this model can write: it would be too long, too deeply nested, or need bytes that no token has.",
    );
  if (grammar.start.final) throw invalid("Only the empty text satisfies it, for which no model is needed.");
  if (!leadingSpace || tree.writable[SPACE] !== 1 || grammar.step(grammar.start, SPACE) !== null)
    return { grammar, dropsSpace: false };
  return { grammar: make(afterSpace(net, root)), dropsSpace: true };
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
