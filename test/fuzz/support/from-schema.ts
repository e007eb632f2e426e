/** Values that a JSON Schema allows. */
import fc from "fast-check";
import type { Schema } from "./api.ts";

/** Values for fields and parameters of a name that mean something to the server, such as ids of what exists. */
export type Known = Readonly<Record<string, readonly unknown[]>>;

/** How likely an optional field is there, in percent: low, since most answers to a request with all of them would be the same error. */
const OPTIONAL_PERCENT = 9;
/** Items of a list of which the schema allows more. */
const LONGEST_LIST = 6;
const LARGEST_INTEGER = Number.MAX_SAFE_INTEGER;

/** Any UTF-16 code units at all: pairs, halves of pairs, NUL. */
export const anyText: fc.Arbitrary<string> = fc.oneof(
  fc.string(),
  fc.string({ unit: "binary" }),
  fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)) }),
);

export function valueOf(schema: Schema, known: Known, name = ""): fc.Arbitrary<unknown> {
  const arbitrary = fromKeywords(schema, known, name);
  const values = known[name];
  return values === undefined
    ? arbitrary
    : fc.oneof({ weight: 6, arbitrary: fc.constantFrom(...values) }, { weight: 1, arbitrary });
}

function fromKeywords(schema: Schema, known: Known, name: string): fc.Arbitrary<unknown> {
  if (schema.enum) return fc.constantFrom(...schema.enum);
  if (schema.anyOf) return fc.oneof(...schema.anyOf.map((one) => fromKeywords(one, known, name)));
  if (Array.isArray(schema.type))
    return fc.oneof(...schema.type.map((type) => fromKeywords({ ...schema, type }, known, name)));
  switch (schema.type ?? "any") {
    case "null":
      return fc.constant(null);
    case "boolean":
      return fc.boolean();
    case "integer":
      return integer(schema);
    case "number":
      return number(schema);
    case "string":
      return text(schema);
    case "array":
      return list(schema, known, name);
    case "object":
      return object(schema, known);
    default:
      return fc.jsonValue();
  }
}

/** Mostly small, since sizes cost time; sometimes the extremes. */
function integer({ minimum = -LARGEST_INTEGER, maximum = LARGEST_INTEGER }: Schema): fc.Arbitrary<number> {
  const start = Math.max(minimum, -8);
  return fc.oneof(
    { weight: 8, arbitrary: fc.integer({ min: start, max: Math.min(maximum, start + 24) }) },
    { weight: 1, arbitrary: fc.constantFrom(minimum, maximum) },
    { weight: 1, arbitrary: fc.integer({ min: minimum, max: maximum }) },
  );
}

function number({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Schema): fc.Arbitrary<number> {
  const [min, max] = [
    minimum ?? exclusiveMinimum ?? -Number.MAX_VALUE,
    maximum ?? exclusiveMaximum ?? Number.MAX_VALUE,
  ];
  const any = fc.double({
    min,
    max,
    minExcluded: exclusiveMinimum !== undefined,
    maxExcluded: exclusiveMaximum !== undefined,
    noNaN: true,
    noDefaultInfinity: true,
  });
  const usual = [0, 0.1, 0.5, 0.9, 1, 1.2].filter(
    (value) =>
      (exclusiveMinimum === undefined ? value >= min : value > min) &&
      (exclusiveMaximum === undefined ? value <= max : value < max),
  );
  return usual.length === 0 ? any : fc.oneof(any, fc.constantFrom(...usual));
}

/** Lengths count code points in JSON Schema, so a string of so many units may be shorter; then it is one the schema forbids. */
function text({ pattern, minLength = 0, maxLength = 200 }: Schema): fc.Arbitrary<string> {
  if (pattern !== undefined) return fc.stringMatching(new RegExp(pattern));
  const limits = { minLength, maxLength };
  return fc.oneof(
    fc.string(limits),
    fc.string({ ...limits, unit: "grapheme" }),
    fc.string({ ...limits, unit: "binary" }),
    anyText.filter((one) => one.length >= minLength && one.length <= maxLength),
  );
}

function list(
  { prefixItems, items = {}, minItems = 0, maxItems = Infinity, uniqueItems = false }: Schema,
  known: Known,
  name: string,
): fc.Arbitrary<unknown[]> {
  if (prefixItems !== undefined || items === false)
    return fc.tuple(...(prefixItems ?? []).map((item) => valueOf(item, known)));
  const limits = { minLength: minItems, maxLength: Math.max(minItems, Math.min(maxItems, LONGEST_LIST)) };
  const item = valueOf(items, known, name);
  return uniqueItems ? fc.uniqueArray(item, limits) : fc.array(item, limits);
}

function object({ properties = {}, required = [], additionalProperties }: Schema, known: Known): fc.Arbitrary<object> {
  const fields = Object.entries(properties).map(([name, schema]) => {
    const value = valueOf(schema, known, name).map((one) => [[name, one] as const]);
    if (required.includes(name)) return value;
    return fc.oneof(
      { weight: 100 - OPTIONAL_PERCENT, arbitrary: fc.constant([]) },
      { weight: OPTIONAL_PERCENT, arbitrary: value },
    );
  });
  const named = fc.tuple(...fields).map((found) => Object.fromEntries(found.flat()) as object);
  if (typeof additionalProperties !== "object") return named;
  const key = fc.oneof({ weight: 9, arbitrary: fc.nat({ max: 1000 }).map(String) }, { weight: 1, arbitrary: anyText });
  return fc
    .tuple(named, fc.dictionary(key, valueOf(additionalProperties, known), { maxKeys: LONGEST_LIST }))
    .map(([own, more]) => ({ ...more, ...own }));
}
