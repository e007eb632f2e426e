/**
 * Every keyword of JSON Schema 2020-12 and draft 7, and what becomes of it. docs/reference/structured-output.md has
 * this table.
 */

export type JsonType = "null" | "boolean" | "object" | "array" | "number" | "integer" | "string";

export const TYPES: readonly JsonType[] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/** Keywords that say something about one type. */
export const BY_TYPE: Readonly<Record<JsonType, readonly string[]>> = {
  null: [],
  boolean: [],
  integer: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  number: ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"],
  string: ["minLength", "maxLength", "pattern", "format"],
  array: ["items", "prefixItems", "minItems", "maxItems", "uniqueItems"],
  object: ["properties", "required", "additionalProperties"],
};

/** Keywords that say of what the value is one; at most one of them stands in a schema. */
export const HEADS = ["$ref", "const", "enum", "anyOf", "oneOf", "allOf"] as const;
export type Head = (typeof HEADS)[number];

export type Treatment = "enforced" | "annotation" | "refused";

interface Keyword {
  readonly treatment: Treatment;
  /** What is enforced, or what to do instead. */
  readonly note?: string;
}

const enforced = (note?: string): Keyword => ({ treatment: "enforced", ...(note === undefined ? {} : { note }) });
const refused = (note?: string): Keyword => ({ treatment: "refused", ...(note === undefined ? {} : { note }) });
const annotation = (note?: string): Keyword => ({ treatment: "annotation", ...(note === undefined ? {} : { note }) });

export const KEYWORDS: Readonly<Record<string, Keyword>> = {
  $anchor: refused("point with a path, as in #/$defs/name"),
  $comment: annotation(),
  $defs: annotation("what $ref points to"),
  $dynamicAnchor: refused(),
  $dynamicRef: refused("use $ref"),
  $id: annotation("at the root only, where $ref does not need it"),
  $recursiveAnchor: refused(),
  $recursiveRef: refused('use {"$ref": "#"}'),
  $ref: enforced("into this schema, as in #/$defs/name, recursion included; nothing but annotations beside it"),
  $schema: annotation(),
  $vocabulary: refused(),
  additionalItems: refused("use prefixItems and items"),
  additionalProperties: enforced(
    "where there are properties, nothing else is written, whatever it says; for a name that only required has, it is the schema",
  ),
  allOf: enforced("of one schema"),
  anyOf: enforced(),
  const: enforced("whole numbers up to 2^53 - 1"),
  contains: refused(),
  contentEncoding: refused("use pattern"),
  contentMediaType: refused(),
  contentSchema: refused(),
  default: annotation(),
  definitions: annotation("what $ref points to"),
  dependencies: refused("use anyOf"),
  dependentRequired: refused("use anyOf"),
  dependentSchemas: refused("use anyOf"),
  deprecated: annotation(),
  description: annotation(),
  else: refused("use anyOf"),
  enum: enforced("whole numbers up to 2^53 - 1"),
  examples: annotation(),
  exclusiveMaximum: enforced("of at most 15 digits"),
  exclusiveMinimum: enforced("of at most 15 digits"),
  format: enforced("date, time, date-time, uuid and ipv4; not beside other keywords for strings"),
  if: refused("use anyOf"),
  items: enforced("one schema for all items after prefixItems"),
  maxContains: refused(),
  maxItems: enforced(),
  maxLength: enforced(),
  maxProperties: refused("name the properties"),
  maximum: enforced("of at most 15 digits"),
  minContains: refused(),
  minItems: enforced(),
  minLength: enforced(),
  minProperties: refused("name the properties, and those that are required"),
  minimum: enforced("of at most 15 digits"),
  multipleOf: refused("use enum"),
  not: refused("say what may come"),
  oneOf: enforced(
    "where the schemas exclude each other: by type, by values, or by a required property with const or enum",
  ),
  pattern: enforced(
    "the regular expressions of `regex`; a match anywhere unless anchored; not beside other keywords for strings",
  ),
  patternProperties: refused("name the properties"),
  prefixItems: enforced("all of them are written"),
  properties: enforced("in the order in which they are given; names that are whole numbers come first"),
  propertyNames: refused("name the properties"),
  readOnly: annotation(),
  required: enforced(),
  then: refused("use anyOf"),
  title: annotation(),
  type: enforced("one or several; beside anyOf, oneOf and allOf only where their schemas have it too"),
  unevaluatedItems: refused("use items"),
  unevaluatedProperties: refused("use additionalProperties"),
  uniqueItems: enforced("false only"),
  writeOnly: annotation(),
};

export const isAnnotation = (name: string): boolean =>
  Object.hasOwn(KEYWORDS, name) && KEYWORDS[name]!.treatment === "annotation";
