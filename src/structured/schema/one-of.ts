/** Whether the schemas of a `oneOf` exclude each other, so that reading any of them is reading exactly one. */
import { TYPES, type JsonType } from "./keywords.ts";
import { typeOf } from "./literals.ts";

type SchemaObject = Readonly<Record<string, unknown>>;

const isObject = (value: unknown): value is SchemaObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** @param branches the schemas, with $ref resolved */
export function excludeEachOther(branches: readonly unknown[]): boolean {
  const kinds = TYPES.filter((type) => type !== "integer");
  return kinds.every((kind) => {
    const competing = branches.filter((branch) => kindsOf(branch).has(kind));
    return competing.length < 2 || differInValue(competing) || (kind === "object" && differInProperty(competing));
  });
}

/** The types that a schema's values may have; whole numbers are numbers here. */
function kindsOf(schema: unknown): ReadonlySet<JsonType> {
  if (schema === false) return new Set();
  if (!isObject(schema)) return new Set(TYPES);
  const values = valuesOf(schema);
  const types = values !== null ? values.map(typeOf) : schema["type"] === undefined ? TYPES : [schema["type"]].flat();
  return new Set((types as JsonType[]).map((type) => (type === "integer" ? "number" : type)));
}

/** The values of a schema that lists them; null: it does not. */
function valuesOf(schema: unknown): readonly unknown[] | null {
  if (!isObject(schema)) return null;
  if (Object.hasOwn(schema, "const")) return [schema["const"]];
  return Array.isArray(schema["enum"]) ? schema["enum"] : null;
}

function differInValue(branches: readonly unknown[]): boolean {
  return areDisjoint(branches.map(valuesOf));
}

/** Whether all of them require a property whose values differ. */
function differInProperty(branches: readonly unknown[]): boolean {
  const [first] = branches;
  const names = isObject(first) && isObject(first["properties"]) ? Object.keys(first["properties"]) : [];
  return names.some((name) =>
    areDisjoint(
      branches.map((branch) => {
        if (!isObject(branch) || !isObject(branch["properties"])) return null;
        const { required, properties } = branch;
        if (!Array.isArray(required) || !required.includes(name)) return null;
        return Object.hasOwn(properties, name) ? valuesOf(properties[name]) : null;
      }),
    ),
  );
}

function areDisjoint(lists: readonly (readonly unknown[] | null)[]): boolean {
  const seen = new Set<string>();
  for (const list of lists) {
    if (list === null) return false;
    const own = new Set(list.map(canonical));
    for (const value of own) if (seen.has(value)) return false;
    for (const value of own) seen.add(value);
  }
  return true;
}

/** The same text for equal values, whatever the order of their properties. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    isObject(inner) ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1))) : inner,
  );
}
