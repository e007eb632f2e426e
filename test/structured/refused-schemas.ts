/** JSON schemas that are refused: with the error's code, and the place that it names. */
export const REFUSED_SCHEMAS: readonly { readonly name: string; readonly schema: unknown; readonly error: string }[] = [
  {
    name: "tuple-draft7",
    schema: { type: "array", items: [{ type: "string" }, { type: "integer" }], additionalItems: false },
    error: "constraint_unsupported /additionalItems",
  },
  {
    name: "pattern+maxLength",
    schema: { type: "string", pattern: "^[a-z]+$", maxLength: 3 },
    error: "constraint_unsupported /maxLength",
  },
  { name: "format-email", schema: { type: "string", format: "email" }, error: "constraint_unsupported /format" },
  { name: "format-regex", schema: { type: "string", format: "regex" }, error: "constraint_unsupported /format" },
  {
    name: "format-idn-email",
    schema: { type: "string", format: "idn-email" },
    error: "constraint_unsupported /format",
  },
  { name: "multipleOf", schema: { type: "integer", multipleOf: 5 }, error: "constraint_unsupported /multipleOf" },
  {
    name: "multipleOf-number",
    schema: { type: "number", multipleOf: 0.5 },
    error: "constraint_unsupported /multipleOf",
  },
  {
    name: "uniqueItems",
    schema: { type: "array", items: { enum: [1, 2] }, uniqueItems: true },
    error: "constraint_unsupported /uniqueItems",
  },
  {
    name: "contains",
    schema: { type: "array", items: { type: "integer" }, contains: { const: 5 } },
    error: "constraint_unsupported /contains",
  },
  {
    name: "minProperties",
    schema: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "integer" } },
      additionalProperties: false,
      minProperties: 1,
    },
    error: "constraint_unsupported /minProperties",
  },
  {
    name: "maxProperties",
    schema: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "integer" } },
      additionalProperties: false,
      maxProperties: 1,
    },
    error: "constraint_unsupported /maxProperties",
  },
  {
    name: "patternProperties",
    schema: { type: "object", patternProperties: { "^x_": { type: "integer" } }, additionalProperties: false },
    error: "constraint_unsupported /patternProperties",
  },
  {
    name: "propertyNames",
    schema: { type: "object", propertyNames: { pattern: "^[a-z]+$" }, additionalProperties: { type: "integer" } },
    error: "constraint_unsupported /propertyNames",
  },
  {
    name: "dependentRequired",
    schema: {
      type: "object",
      properties: { a: { type: "integer" }, b: { type: "integer" } },
      required: [],
      additionalProperties: false,
      dependentRequired: { a: ["b"] },
    },
    error: "constraint_unsupported /dependentRequired",
  },
  {
    name: "if-then-else",
    schema: {
      type: "object",
      properties: { k: { enum: ["x", "y"] }, v: {} },
      required: ["k", "v"],
      additionalProperties: false,
      if: { properties: { k: { const: "x" } } },
      then: { properties: { v: { type: "integer" } } },
      else: { properties: { v: { type: "string" } } },
    },
    error: "constraint_unsupported /if",
  },
  { name: "not", schema: { type: "string", not: { enum: ["bad"] } }, error: "constraint_unsupported /not" },
  {
    name: "anyOf-with-siblings",
    schema: {
      type: "object",
      properties: { a: { type: "integer" } },
      required: ["a"],
      anyOf: [{ properties: { a: { minimum: 5 } } }],
    },
    error: "constraint_unsupported /properties",
  },
  {
    name: "oneOf-overlap",
    schema: {
      oneOf: [
        { type: "integer", maximum: 10 },
        { type: "integer", minimum: 5 },
      ],
    },
    error: "constraint_unsupported /oneOf",
  },
  {
    name: "allOf-merge",
    schema: {
      allOf: [
        { type: "object", properties: { a: { type: "integer" } }, required: ["a"] },
        { type: "object", properties: { b: { type: "string" } }, required: ["b"] },
      ],
    },
    error: "constraint_unsupported /allOf",
  },
  {
    name: "allOf-intersect",
    schema: {
      allOf: [
        { type: "integer", minimum: 3 },
        { type: "integer", maximum: 7 },
      ],
    },
    error: "constraint_unsupported /allOf",
  },
  {
    name: "ref-sibling",
    schema: { $defs: { P: { type: "integer" } }, $ref: "#/$defs/P", minimum: 5 },
    error: "constraint_unsupported /minimum",
  },
  { name: "ref-unresolved", schema: { $ref: "#/$defs/none" }, error: "constraint_invalid /$ref" },
  { name: "ref-remote", schema: { $ref: "http://example.com/s.json" }, error: "constraint_unsupported /$ref" },
  {
    name: "ref-anchor",
    schema: { $defs: { P: { $anchor: "p", type: "integer" } }, $ref: "#p" },
    error: "constraint_unsupported /$ref",
  },
  {
    name: "ref-loop",
    schema: { $defs: { A: { $ref: "#/$defs/B" }, B: { $ref: "#/$defs/A" } }, $ref: "#/$defs/A" },
    error: "constraint_invalid /$defs/A",
  },
  { name: "false", schema: false, error: "constraint_invalid" },
  { name: "unknown-keyword", schema: { type: "integer", mimimum: 5 }, error: "constraint_unsupported /mimimum" },
  { name: "type-unknown", schema: { type: "decimal" }, error: "constraint_invalid /type" },
  {
    name: "min-greater-max",
    schema: { type: "integer", minimum: 5, maximum: 1 },
    error: "constraint_invalid the root",
  },
  { name: "empty-enum", schema: { enum: [] }, error: "constraint_invalid /enum" },
  {
    name: "bound of many digits",
    schema: { type: "number", maximum: 0.30000000000000004 },
    error: "constraint_unsupported /maximum",
  },
  {
    name: "oneOf objects without discriminator",
    schema: {
      oneOf: [
        { type: "object", properties: { a: {} } },
        { type: "object", properties: { b: {} } },
      ],
    },
    error: "constraint_unsupported /oneOf",
  },
  {
    name: "$id inside",
    schema: { type: "array", items: { $id: "https://example.com/a", type: "integer" } },
    error: "constraint_unsupported /items/$id",
  },
  {
    name: "pattern beside format",
    schema: { type: "string", pattern: "a", format: "date" },
    error: "constraint_unsupported /format",
  },
  {
    name: "pattern lookahead",
    schema: { type: "string", pattern: "^(?=a)b$" },
    error: "constraint_unsupported /pattern",
  },
  {
    name: "left recursion",
    schema: { $defs: { A: { anyOf: [{ $ref: "#/$defs/A" }, { type: "string" }] } }, $ref: "#/$defs/A" },
    error: "constraint_invalid /$defs/A",
  },
  { name: "itself", schema: { $ref: "#" }, error: "constraint_invalid the root" },
  {
    name: "endless",
    schema: { type: "object", properties: { a: { $ref: "#" } }, required: ["a"] },
    error: "constraint_invalid",
  },
  { name: "no schema", schema: 5, error: "constraint_invalid the root" },
  {
    name: "keyword for another type",
    schema: { type: "integer", maxLength: 3 },
    error: "constraint_unsupported /maxLength",
  },
  { name: "const and maxLength", schema: { const: "a", maxLength: 3 }, error: "constraint_unsupported /maxLength" },
  { name: "required not a list", schema: { type: "object", required: "a" }, error: "constraint_invalid /required" },
  { name: "a number beyond all", schema: { enum: [1, { a: [Infinity] }] }, error: "constraint_unsupported /enum" },
  { name: "an inexact number", schema: { const: 2 ** 53 }, error: "constraint_unsupported /const" },
  { name: "fraction of a count", schema: { type: "string", minLength: 1.5 }, error: "constraint_invalid /minLength" },
];
