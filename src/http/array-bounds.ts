/**
 * Checks a body's arrays before the validator does. The validator visits every item before it checks how many there
 * are, and on an error visits all of them again for each alternative of a union, at microseconds per item.
 */

/** A finding of the validator: JSON Schema's keyword, and a JSON pointer to the value. */
export interface Finding {
  readonly keyword: string;
  readonly instancePath: string;
  readonly message: string;
  readonly params: object;
}

/** The JSON Schema keywords used here. */
interface Schema {
  readonly type?: unknown;
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  /** For a tuple, one schema per item. */
  readonly items?: Schema | readonly Schema[];
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly minimum?: number;
}

/**
 * The first array with too many items, or the first non-integer in an unbounded list of integers; null if there is
 * neither.
 */
export function firstArrayFault(schema: Schema, value: unknown, path = ""): Finding | null {
  if (!Array.isArray(value))
    return firstOf(fieldsOf(schema, value), ([name, field]) =>
      firstArrayFault(field, (value as Record<string, unknown>)[name], `${path}/${name}`),
    );
  const array = arrayOf(schema, value);
  if (array === undefined) return null;
  const { items = {}, maxItems = Array.isArray(items) ? items.length : Infinity } = array;
  if (value.length > maxItems)
    return {
      keyword: "maxItems",
      instancePath: path,
      message: `must not have more than ${maxItems} items`,
      params: { limit: maxItems },
    };
  const ofItem = (index: number): Schema =>
    Array.isArray(items) ? (items as readonly Schema[])[index]! : (items as Schema);
  return isInteger(items)
    ? firstNoInteger(items, value, path)
    : firstOf(value.entries(), ([index, item]) => firstArrayFault(ofItem(index), item, `${path}/${index}`));
}

/**
 * What is left for the validator: the value without the parts that `firstArrayFault` has checked; lists of integers
 * keep only their minimum length.
 */
export function withoutIntegers(schema: Schema, value: unknown): unknown {
  if (!Array.isArray(value)) {
    const fields = [...fieldsOf(schema, value)];
    return fields.length === 0
      ? value
      : {
          ...(value as object),
          ...Object.fromEntries(
            fields.map(([name, field]) => [name, withoutIntegers(field, (value as Record<string, unknown>)[name])]),
          ),
        };
  }
  const array = arrayOf(schema, value);
  // The validator reports this without visiting the items.
  if (array === undefined) return value;
  const { items = {}, minItems = 0 } = array;
  if (isInteger(items)) return value.slice(0, minItems);
  return value.map((item: unknown, index) =>
    withoutIntegers(Array.isArray(items) ? (items as readonly Schema[])[index]! : (items as Schema), item),
  );
}

/**
 * The array alternative of a schema that holds for a value. A union has one, or a list of integers and another one: the
 * value's first item tells which is meant.
 */
function arrayOf(schema: Schema, value: readonly unknown[]): Schema | undefined {
  const arrays = [schema, ...(schema.anyOf ?? [])].filter(({ type }) => type === "array");
  return arrays.find(({ items = {} }) => isInteger(items) === (typeof value[0] === "number")) ?? arrays[0];
}

const isInteger = (items: Schema | readonly Schema[]): items is Schema => "type" in items && items.type === "integer";

/** An object's fields that the schema knows. */
function* fieldsOf({ properties = {} }: Schema, value: unknown): Generator<[string, Schema]> {
  if (typeof value !== "object" || value === null) return;
  for (const entry of Object.entries(properties)) if (Object.hasOwn(value, entry[0])) yield entry;
}

function firstNoInteger({ minimum = -Infinity }: Schema, values: readonly unknown[], path: string): Finding | null {
  for (let index = 0; index < values.length; index++) {
    const value = values[index];
    if (Number.isInteger(value) && (value as number) >= minimum) continue;
    const instancePath = `${path}/${index}`;
    if (!Number.isInteger(value))
      return { keyword: "type", instancePath, message: "must be integer", params: { type: "integer" } };
    return {
      keyword: "minimum",
      instancePath,
      message: `must be >= ${minimum}`,
      params: { comparison: ">=", limit: minimum },
    };
  }
  return null;
}

function firstOf<T>(values: Iterable<T>, faultOf: (value: T) => Finding | null): Finding | null {
  for (const value of values) {
    const fault = faultOf(value);
    if (fault !== null) return fault;
  }
  return null;
}
