/** What a JSON schema allows, reduced to what two descriptions of one API can be compared by. */

/** The part of JSON Schema, and of OpenAPI 3.0's dialect of it, that is read here. */
export interface Schema {
  readonly $ref?: string;
  readonly type?: string | readonly string[];
  readonly nullable?: boolean;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema;
  readonly additionalProperties?: boolean | Schema;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly allOf?: readonly Schema[];
  readonly minimum?: number;
  readonly maximum?: number;
}

export interface Shape {
  /** Of JSON's types, and "integer"; empty: anything. */
  readonly types: ReadonlySet<string>;
  /** The texts that are allowed; null: any. */
  readonly texts: ReadonlySet<string> | null;
  readonly minimum: number;
  readonly maximum: number;
  readonly properties: ReadonlyMap<string, Shape>;
  readonly required: ReadonlySet<string>;
  readonly items: Shape | null;
}

const NOTHING: ReadonlySet<string> = new Set();
export const ANYTHING: Shape = {
  types: NOTHING,
  texts: null,
  minimum: -Infinity,
  maximum: Infinity,
  properties: new Map(),
  required: NOTHING,
  items: null,
};

/**
 * Of alternatives, a shape allows what any of them does: only what all objects require is required.
 * @param resolve a reference's schema
 */
export function shapeOf(schema: Schema, resolve: (ref: string) => Schema, within: readonly string[] = []): Shape {
  if (schema.$ref !== undefined)
    return within.includes(schema.$ref) ? ANYTHING : shapeOf(resolve(schema.$ref), resolve, [...within, schema.$ref]);
  const of = (one: Schema): Shape => shapeOf(one, resolve, within);
  const parts = [plain(schema, of)];
  for (const alternatives of [schema.anyOf, schema.oneOf])
    if (alternatives !== undefined) parts.push(alternatives.map(of).reduce(either));
  for (const one of schema.allOf ?? []) parts.push(of(one));
  const shape = parts.filter((part) => part !== ANYTHING).reduce(both, ANYTHING);
  return schema.nullable === true && shape.types.size > 0
    ? { ...shape, types: new Set([...shape.types, "null"]) }
    : shape;
}

/** What stands in the schema itself. */
function plain(schema: Schema, of: (schema: Schema) => Shape): Shape {
  const { type, properties, items, minimum, maximum } = schema;
  const values = schema.const === undefined ? schema.enum : [schema.const];
  const types =
    type !== undefined
      ? [type].flat()
      : values !== undefined
        ? values.map((value) => (value === null ? "null" : typeof value))
        : properties !== undefined || schema.additionalProperties !== undefined
          ? ["object"]
          : items !== undefined
            ? ["array"]
            : [];
  if (types.length === 0) return ANYTHING;
  return {
    types: new Set(types),
    texts: values === undefined ? null : new Set(values.filter((value) => typeof value === "string")),
    minimum: minimum ?? -Infinity,
    maximum: maximum ?? Infinity,
    properties: new Map(Object.entries(properties ?? {}).map(([name, one]) => [name, of(one)])),
    required: new Set(schema.required ?? []),
    items: items === undefined ? null : of(items),
  };
}

function either(a: Shape, b: Shape): Shape {
  if (a.types.size === 0 || b.types.size === 0) return ANYTHING;
  const text = (shape: Shape): boolean => shape.types.has("string");
  const number = (shape: Shape): boolean => shape.types.has("number") || shape.types.has("integer");
  const object = (shape: Shape): boolean => shape.types.has("object");
  return {
    types: new Set([...a.types, ...b.types]),
    texts: !text(a) ? b.texts : !text(b) ? a.texts : a.texts && b.texts && new Set([...a.texts, ...b.texts]),
    minimum: !number(a) ? b.minimum : !number(b) ? a.minimum : Math.min(a.minimum, b.minimum),
    maximum: !number(a) ? b.maximum : !number(b) ? a.maximum : Math.max(a.maximum, b.maximum),
    properties: merged(a, b, either),
    required: !object(a)
      ? b.required
      : !object(b)
        ? a.required
        : new Set([...a.required].filter((name) => b.required.has(name))),
    items: a.items && b.items ? either(a.items, b.items) : (a.items ?? b.items),
  };
}

/** Of a schema and what it is combined with. */
function both(a: Shape, b: Shape): Shape {
  if (a.types.size === 0) return b;
  return {
    types: b.types.size === 0 ? a.types : new Set([...a.types].filter((type) => b.types.has(type))),
    texts: a.texts ?? b.texts,
    minimum: Math.max(a.minimum, b.minimum),
    maximum: Math.min(a.maximum, b.maximum),
    properties: merged(a, b, both),
    required: new Set([...a.required, ...b.required]),
    items: a.items ?? b.items,
  };
}

function merged(a: Shape, b: Shape, merge: (a: Shape, b: Shape) => Shape): Map<string, Shape> {
  const all = new Map(a.properties);
  for (const [name, shape] of b.properties) {
    const known = all.get(name);
    all.set(name, known === undefined ? shape : merge(known, shape));
  }
  return all;
}
