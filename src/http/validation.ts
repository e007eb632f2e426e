import type { FastifySchemaCompiler } from "fastify";
import { Compile } from "typebox/compile";
import type { TSchema } from "typebox";
import { PrefixdError } from "../errors.ts";
import { firstArrayFault, withoutIntegers, type Finding } from "./array-bounds.ts";
import { FIELD_ALIASES, NOT_OFFERED } from "./generate/foreign-fields.ts";

/** Our own schema annotations besides JSON Schema's keywords; see generate/schema.ts. */
interface Annotated {
  readonly type?: unknown;
  readonly anyOf?: readonly Annotated[];
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Annotated>>;
  readonly hint?: string;
  /** Of an object: fields of another route, which a body that has one was meant for, and the sentence that says so. */
  readonly elsewhere?: { readonly fields: readonly string[]; readonly hint: string };
  readonly unchecked?: boolean;
}

/**
 * Validates input against the TypeBox schemas. Coerces nothing (except query strings, which are text), removes nothing
 * (except null for an optional field, which means absent), fills in nothing. The first finding becomes one of our
 * errors that names the field.
 */
export const validatorCompiler: FastifySchemaCompiler<TSchema> = ({ schema, httpPart }) => {
  if ((schema as Annotated).unchecked) return (value: unknown) => ({ value });
  const validator = Compile(schema);
  const withoutNulls = nullRemover(schema);
  return (value: unknown) => {
    // A missing JSON body arrives as undefined or null.
    const input: unknown =
      httpPart === "querystring" ? withNumbers(schema, value) : httpPart === "body" ? withoutNulls(value) : value;
    const fault = firstArrayFault(schema, input);
    if (fault !== null) return { error: explain(schema, [fault], httpPart ?? "body") };
    const rest = withoutIntegers(schema, input);
    return validator.Check(rest)
      ? { value: input }
      : { error: explain(schema, validator.Errors(rest), httpPart ?? "body") };
  };
};

/** Whether null is a value in its own right. */
const takesNull = ({ type, anyOf }: Annotated): boolean => type === "null" || (anyOf?.some(takesNull) ?? false);

/** Optional body fields for which null means absent. */
export function nullableFields(schema: TSchema): string[] {
  const { properties = {}, required = [] } = schema as Annotated;
  return Object.keys(properties).filter((name) => !required.includes(name) && !takesNull(properties[name]!));
}

/** Builds a function, once per schema, that removes null fields where null means absent, in nested objects too. */
function nullRemover(schema: Annotated): (value: unknown) => unknown {
  const { properties } = schema;
  if (properties === undefined) return (value) => value;
  const absent = new Set(nullableFields(schema));
  const within = new Map(Object.entries(properties).map(([name, field]) => [name, nullRemover(field)]));
  return (value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    const kept = Object.entries(value).filter(([name, field]) => field !== null || !absent.has(name));
    return Object.fromEntries(
      kept.map(([name, field]): [string, unknown] => [name, within.has(name) ? within.get(name)!(field) : field]),
    );
  };
}

/** Query strings are text: converts what the schema wants as an integer and reads as one. */
function withNumbers(schema: Annotated, query: unknown): unknown {
  const out: Record<string, unknown> = { ...(query as Record<string, unknown>) };
  for (const [name, { type }] of Object.entries(schema.properties ?? {})) {
    const value = out[name];
    if (Array.isArray(value))
      throw new PrefixdError("invalid_request", `The parameter ${JSON.stringify(name)} is given twice.`);
    if (type === "integer" && typeof value === "string" && /^-?\d{1,15}$/.test(value)) out[name] = Number(value);
  }
  return out;
}

export function explain(schema: Annotated, findings: readonly Finding[], part: string): PrefixdError {
  const unknown = findings.find((finding) => finding.keyword === "additionalProperties");
  if (unknown) return unknownField(schema, unknown);
  const missing = findings.find((finding) => finding.keyword === "required");
  if (missing) {
    const names = missingFields(missing);
    return new PrefixdError(
      "invalid_request",
      `${where(missing.instancePath, part)} lacks ${names.length === 0 ? "a field" : names.map((name) => JSON.stringify(name)).join(", ")}.`,
      names[0] === undefined ? {} : { field: names[0] },
    );
  }
  const finding = mostTelling(findings);
  if (finding === undefined || finding.instancePath === "")
    return new PrefixdError("invalid_request", `The ${part} ${finding?.message ?? "is malformed"}.`);
  const top = schema.properties?.[finding.instancePath.split("/")[1] ?? ""];
  const name = where(finding.instancePath, part);
  return new PrefixdError(
    "invalid_parameter",
    `${name} ${expectation(findings, finding)}${top?.hint ? `; ${top.hint}` : ""}.`,
    { field: name },
  );
}

/** Of a union's branch that was not meant. */
const OF_ANY_BRANCH: ReadonlySet<string> = new Set(["type", "const", "anyOf"]);

/**
 * In a union every branch reports errors. The deepest one, or one about more than the type, is from the branch that was
 * meant.
 */
function mostTelling(findings: readonly Finding[]): Finding | undefined {
  const depth = (finding: Finding): number =>
    finding.instancePath.split("/").length * 2 + (OF_ANY_BRANCH.has(finding.keyword) ? 0 : 1);
  return (
    [...findings].filter((finding) => finding.keyword !== "anyOf").sort((a, b) => depth(b) - depth(a))[0] ?? findings[0]
  );
}

function expectation(findings: readonly Finding[], finding: Finding): string {
  if (finding.keyword === "enum" && "allowedValues" in finding.params)
    return `must be one of ${String(finding.params.allowedValues)}`;
  if (finding.keyword !== "type" && finding.keyword !== "const") return finding.message;
  const there = findings.filter(({ instancePath }) => instancePath === finding.instancePath);
  const values = there.flatMap(({ params }) => ("allowedValue" in params ? [params.allowedValue] : []));
  const types = there.flatMap(({ keyword, params }) =>
    keyword === "type" && "type" in params ? [String(params.type)] : [],
  );
  const ofValues = values.map((value): string => typeof value);
  const wanted = [...values.map((value) => JSON.stringify(value)), ...types.filter((type) => !ofValues.includes(type))];
  return `must be ${[...new Set(wanted)].join(" or ")}`;
}

/** Unknown fields named in one error. */
const MOST_NAMED = 8;

function unknownField(schema: Annotated, finding: Finding): PrefixdError {
  const given: unknown = "additionalProperties" in finding.params ? finding.params.additionalProperties : [];
  const names = Array.isArray(given) ? given.map(String) : [];
  const refused = names.find((name) => Object.hasOwn(NOT_OFFERED, name));
  if (refused !== undefined)
    return new PrefixdError("unsupported_parameter", `${shown(refused)} is not supported: ${NOT_OFFERED[refused]}.`, {
      field: refused,
    });
  const named = names.slice(0, MOST_NAMED);
  const meant = named.flatMap((name) => meantBy(name, Object.keys(schema.properties ?? {})) ?? []);
  const { fields = [], hint = "" } = schema.elsewhere ?? {};
  const sentences = [
    `${named.length === 1 ? "There is no field" : "There are no fields"} ${named.map(shown).join(", ")}.`,
    ...(meant.length === 0
      ? []
      : [`Did you mean ${[...new Set(meant)].map((name) => JSON.stringify(name)).join(", ")}?`]),
    ...(named.some((name) => fields.includes(name)) ? [hint] : []),
  ];
  return new PrefixdError("unknown_field", sentences.join(" "), { field: shown(named[0] ?? "").slice(1, -1) });
}

const shown = (name: string): string => JSON.stringify(name.length > 64 ? `${name.slice(0, 64)}...` : name);

/** The known field that an unknown name stands for in other APIs, or that it resembles, if any. */
function meantBy(name: string, known: readonly string[]): string | undefined {
  const aliases = Object.hasOwn(FIELD_ALIASES, name) ? [FIELD_ALIASES[name] ?? []].flat() : [];
  return aliases.find((alias) => known.includes(alias)) ?? nearest(name, known);
}

/** `/prompts/3/1` as `prompts[3][1]`. */
function where(path: string, part: string): string {
  const name = path
    .slice(1)
    .replace(/\/(\d+)(?=\/|$)/g, "[$1]")
    .replaceAll("/", ".");
  return name === "" ? `The ${part}` : name.length > 100 ? `${name.slice(0, 100)}...` : name;
}

/** The fields that a finding misses. */
function missingFields({ params }: Finding): string[] {
  const names: unknown =
    "requiredProperties" in params
      ? params.requiredProperties
      : "missingProperty" in params
        ? [params.missingProperty]
        : [];
  return Array.isArray(names) ? names.map(String) : [];
}

/** The nearest known name within two edits (one for short names), if any. */
export function nearest(name: string, known: readonly string[]): string | undefined {
  if (name.length > 40) return undefined;
  const limit = name.length < 5 ? 1 : 2;
  let best: { name: string; distance: number } | undefined;
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase().replaceAll("-", "_"), candidate);
    if (distance <= limit && (best === undefined || distance < best.distance)) best = { name: candidate, distance };
  }
  return best?.name;
}

/** Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
