/** JSON bodies of a given size that are slowest to read, whatever a route's schema is. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { repositoryFile } from "./docs-block.ts";

/** The JSON Schema keywords used here. */
interface Schema {
  readonly $ref?: string;
  /** A list if null is allowed. */
  readonly type?: string | readonly string[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly items?: Schema | readonly Schema[];
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
}

interface Route {
  readonly method: string;
  readonly path: string;
  readonly body: Schema;
}

interface Document {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<Record<string, { requestBody?: { content: Readonly<Record<string, { schema: Schema }>> } }>>
    >
  >;
  readonly components: { readonly schemas: Readonly<Record<string, Schema>> };
}

const DOCUMENT = parse(readFileSync(repositoryFile("openapi.yaml"), "utf8")) as Document;

/** Every route of openapi.yaml that accepts JSON. */
export const ROUTES_WITH_BODY: readonly Route[] = Object.entries(DOCUMENT.paths).flatMap(([path, methods]) =>
  Object.entries(methods).flatMap(([method, { requestBody }]) => {
    const schema = requestBody?.content["application/json"]?.schema;
    return schema === undefined ? [] : [{ method: method.toUpperCase(), path, body: resolved(schema) }];
  }),
);

/** Items of a long list: possibly valid ones, invalid ones, and ones that are slow to parse. */
const ITEMS = [
  "4095",
  "1.5",
  "1e999",
  "-1.7976931348623157e308",
  '"a"',
  '"u1"',
  "true",
  "[0]",
  '{"a":0}',
  '"\\ud83d\\ude00"',
  "[[0],1]",
];
const FEW_ITEMS = ["0", "-1", '""', "null", "[]", "{}"];
const TEXTS = [
  " ",
  "1234567890",
  "a1!",
  "once upon a time ",
  "\u00e9",
  "\u00c3\u00c2",
  "a b",
  "\u0300",
  "\\n",
  "\\u00e9",
  '\\"',
  "\\\\",
  "\ud83d\udc68\u200d\ud83d\udc69\u200d",
];
const FEW_TEXTS = ["a", "the"];

/** A body's description, and what makes it: most are a megabyte that nobody may want. */
export type WorstBody = readonly [name: string, json: () => string];

/** Bodies of up to `bytes` bytes. */
export function* worstBodies({ body }: Route, bytes: number): Generator<WorstBody> {
  for (const [name, value] of values(undefined, bytes - 2)) yield [`a body that is ${name}`, value];
  const others = requiredFields(body);
  const seen = new Set<string>();
  for (const [path, schema] of fields(body)) {
    // Fields with the same schema are checked alike.
    const kind = JSON.stringify(schema, (key, value: unknown) =>
      ["description", "default", "examples", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"].includes(key)
        ? undefined
        : value,
    );
    if (seen.has(kind)) continue;
    seen.add(kind);
    const beside = others.filter(([key]) => key !== path[0]).map(([key, other]) => `${JSON.stringify(key)}:${other}`);
    for (const [name, value] of values(schema, bytes - 200)) {
      const field = (): string =>
        path.reduceRight((inner, key) => `{${JSON.stringify(key)}:${inner}}`, value()).slice(1, -1);
      yield [`${path.join(".")} that is ${name}`, () => `{${[...beside, field()].join()}}`];
    }
  }
  // Beside an error, so that the validator looks for it.
  for (const name of ["prompt", "token_ids"].filter((name) => body.properties?.[name] !== undefined))
    yield [`${name} and a field that there is not`, () => `{"nothing":0,"${name}":${list("1", bytes - 100)}}`];
}

/** Values for a field's schema (of which there are many); undefined: for the whole body. */
function* values(schema: Schema | undefined, bytes: number): Generator<WorstBody> {
  for (const item of [...FEW_ITEMS, ...(schema === undefined ? ITEMS : validItems(schema))])
    yield [`a list of ${item.slice(0, 30)}`, () => list(item, bytes)];
  for (const item of ["0", "-1", '"a"']) {
    yield [`64 lists of ${item}`, () => list(list(item, bytes / 64 - 1), bytes)];
    yield [`a list of an empty one and a long one of ${item}`, () => `[[],${list(item, bytes - 5)}]`];
    yield [`a pair of a long list of ${item} and a number`, () => `[[${list(item, bytes - 8)},1]]`];
  }
  for (const text of [...FEW_TEXTS, ...(schema === undefined || isText(schema) ? TEXTS : [])]) {
    yield [`a text of ${JSON.stringify(text)}`, () => `"${repeated(text, bytes - 2)}"`];
    yield [`a list of a text of ${JSON.stringify(text)}`, () => `["${repeated(text, bytes - 4)}"]`];
  }
  yield ["an object with 4,000 keys", () => `{${manyKeys(40_000, "0")}}`];
  yield ["an object with a long key of /1", () => `{"${repeated("/1", bytes - 6)}":0}`];
  yield ["an object beside half a character", () => `[${list("0", bytes - 40)},{"a":"\\ud800"}]`];
  if (schema !== undefined) return;
  yield ["an object with many keys", () => `{${manyKeys(bytes, "0")}}`];
  yield ["an object with many keys of lists", () => `{${manyKeys(bytes, "[]")}}`];
  yield [
    "a list of objects with different keys",
    () =>
      `[${manyKeys(0.75 * bytes, "0")
        .split(",")
        .map((pair) => `{${pair}}`)
        .join()}]`,
  ];
  yield ["deep lists", () => "[".repeat(bytes / 2) + "]".repeat(bytes / 2)];
  yield ["deep objects", () => '{"a":'.repeat(bytes / 6) + "0" + "}".repeat(bytes / 6)];
  yield ["a long number", () => repeated("7", bytes)];
  yield ["blanks before an end", () => `[${repeated(" ", bytes)}`];
  yield ["quotes and blanks", () => `["a"${repeated(" ", bytes)}]`];
  yield ["a prototype last", () => `[${list("0", bytes - 60)},{"__proto__":{}}]`];
  yield ["half a character last", () => `[${list("[]", 8000)},${list("0", bytes - 8040)},"\\ud800"]`];
}

const isOf = ({ type }: Schema, name: string): boolean => [type].flat().includes(name);
const isText = (schema: Schema): boolean => isOf(schema, "string") || (schema.anyOf?.some(isText) ?? false);

/** Valid items of a list of the schema, if it may be one. */
function validItems(schema: Schema): string[] {
  return (schema.anyOf ?? [schema])
    .filter((one) => isOf(one, "array") && !Array.isArray(one.items))
    .map(({ items }) => example(items as Schema));
}

function example(schema: Schema): string {
  const { anyOf, items, minimum = 0, required = [], properties = {} } = schema;
  const [value] = schema.enum ?? [];
  if (value !== undefined) return JSON.stringify(value);
  if (anyOf !== undefined) return example(anyOf[0]!);
  if (isOf(schema, "array"))
    return `[${Array.isArray(items) ? items.map((item: Schema) => example(item)).join() : example(items as Schema)}]`;
  if (isOf(schema, "object"))
    return `{${required.map((name) => `${JSON.stringify(name)}:${example(properties[name]!)}`).join()}}`;
  return isOf(schema, "integer") || isOf(schema, "number")
    ? String(minimum + 1)
    : isOf(schema, "boolean")
      ? "true"
      : '"a"';
}

/** All fields of a body with their schemas, including those of nested objects. */
function* fields(
  schema: Schema,
  path: readonly string[] = [],
): Generator<readonly [path: readonly string[], schema: Schema]> {
  for (const [name, stored] of Object.entries(schema.properties ?? {})) {
    const field = resolved(stored);
    yield [[...path, name], field];
    yield* fields(field, [...path, name]);
  }
}

function requiredFields({ required = [], properties = {} }: Schema): (readonly [name: string, json: string])[] {
  return required.map((name) => [name, example(properties[name]!)]);
}

function resolved(schema: Schema): Schema {
  return schema.$ref === undefined
    ? schema
    : resolved(DOCUMENT.components.schemas[schema.$ref.slice(schema.$ref.lastIndexOf("/") + 1)]!);
}

const list = (item: string, bytes: number): string =>
  `[${repeated(`${item},`, bytes - 2 - Buffer.byteLength(item))}${item}]`;
const repeated = (text: string, bytes: number): string =>
  text.repeat(Math.max(1, Math.floor(bytes / Buffer.byteLength(text))));

function manyKeys(bytes: number, value: string): string {
  const pairs: string[] = [];
  for (let left = bytes - 20, index = 0; left > 0; index++) {
    pairs.push(`"k${index.toString(36)}":${value}`);
    left -= pairs.at(-1)!.length + 1;
  }
  return pairs.join();
}
