/** Reads an OpenAPI description, and reduces OpenAI's to what is compared. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import type { Operation, Operations } from "./compare.ts";
import { ANYTHING, shapeOf, type Schema, type Shape } from "./shape.ts";

interface Body {
  readonly content?: Readonly<Record<string, { readonly schema?: Schema }>>;
}

interface Parameter {
  readonly $ref?: string;
  readonly name: string;
  readonly in: string;
  readonly required?: boolean;
  readonly schema?: Schema;
}

interface Route {
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: Body;
  readonly responses?: Readonly<Record<string, Body>>;
}

/** An OpenAPI document. */
export interface Description {
  readonly info?: { readonly version?: string };
  readonly paths: Readonly<Record<string, Readonly<Record<string, Route>>>>;
  readonly components?: { readonly schemas?: Readonly<Record<string, Schema>> };
}

const METHODS = ["get", "post", "put", "patch", "delete"];
const SCHEMAS = "#/components/schemas/";

export const readDescription = (path: string): Description => parse(readFileSync(path, "utf8")) as Description;

/** A route's name without the names of its path's parameters, and without the version that ours begin with. */
const routeOf = (method: string, path: string): string =>
  `${method.toUpperCase()} ${path.replace(/^\/v1(?=\/)/, "").replaceAll(/\{[^}]*\}/g, "{}")}`;

function* routesOf({ paths }: Description): Generator<readonly [string, Route]> {
  for (const [path, item] of Object.entries(paths))
    for (const [method, route] of Object.entries(item))
      if (METHODS.includes(method)) yield [routeOf(method, path), route];
}

const resolver =
  ({ components }: Description) =>
  (ref: string): Schema => {
    const schema = ref.startsWith(SCHEMAS) ? components?.schemas?.[ref.slice(SCHEMAS.length)] : undefined;
    if (schema === undefined) throw new Error(`There is no ${ref}.`);
    return schema;
  };

/** @param under only paths that begin so */
export function operationsOf(description: Description, under = "/"): Operations {
  const { paths, ...others } = description;
  const chosen = Object.fromEntries(Object.entries(paths).filter(([path]) => path.startsWith(under)));
  const resolve = resolver(description);
  const shapes = (body: Body | undefined): Map<string, Shape> =>
    new Map(
      Object.entries(body?.content ?? {}).map(([media, { schema }]) => [
        media,
        schema === undefined ? ANYTHING : shapeOf(schema, resolve),
      ]),
    );
  return new Map(
    [...routesOf({ ...others, paths: chosen })].map(([name, { parameters = [], requestBody, responses = {} }]) => {
      const query = parameters.filter((one) => one.in === "query");
      const [, answer] = Object.entries(responses).find(([status]) => /^2\d\d$/.test(status)) ?? [];
      const schema: Schema = {
        type: "object",
        properties: Object.fromEntries(query.map((one) => [one.name, one.schema ?? {}])),
        required: query.filter(({ required }) => required === true).map((one) => one.name),
      };
      const operation: Operation = {
        query: shapeOf(schema, resolve),
        request: [...shapes(requestBody).values()][0] ?? null,
        response: shapes(answer),
      };
      return [name, operation];
    }),
  );
}

/** What of a schema is compared, without references, and without fields that `ours` does not have. */
function reduced(schema: Schema, ours: Shape, resolve: (ref: string) => Schema): Schema {
  if (schema.$ref !== undefined) return reduced(resolve(schema.$ref), ours, resolve);
  const list = (all: readonly Schema[] | undefined): Schema[] | undefined =>
    all?.map((one) => reduced(one, ours, resolve));
  const { type, nullable, required, minimum, maximum } = schema;
  return withoutAbsent({
    type,
    nullable,
    enum: schema.enum,
    const: schema.const,
    required,
    minimum,
    maximum,
    properties:
      schema.properties &&
      Object.fromEntries(
        Object.entries(schema.properties).map(([name, one]) => {
          const mine = ours.properties.get(name);
          return [name, mine === undefined ? {} : reduced(one, mine, resolve)];
        }),
      ),
    items: schema.items && reduced(schema.items, ours.items ?? ANYTHING, resolve),
    anyOf: list(schema.anyOf),
    oneOf: list(schema.oneOf),
    allOf: list(schema.allOf),
    additionalProperties: schema.additionalProperties === undefined ? undefined : true,
  });
}

const withoutAbsent = (schema: { [K in keyof Schema]: Schema[K] | undefined }): Schema =>
  Object.fromEntries(Object.entries(schema).filter(([, value]) => value !== undefined));

/** OpenAI's description, reduced to what ours has of it. */
export interface Excerpt {
  readonly from: string;
  readonly licence: string;
  /** Everything that they offer and we do not: whole groups by their first word. */
  readonly others: readonly string[];
  readonly paths: Description["paths"];
}

/** @param from where it was read, with its version */
export function excerptOf(theirs: Description, ours: Operations, from: string): Excerpt {
  const resolve = resolver(theirs);
  const groups = new Set([...ours.keys()].map((name) => groupOf(name)));
  const others = new Set<string>();
  const paths: Record<string, Record<string, Route>> = {};
  for (const [path, item] of Object.entries(theirs.paths))
    for (const [method, route] of Object.entries(item)) {
      if (!METHODS.includes(method)) continue;
      const name = routeOf(method, path);
      const mine = ours.get(name);
      if (mine === undefined) others.add(groups.has(groupOf(name)) ? name : groupOf(name));
      else (paths[path] ??= {})[method] = reducedRoute(route, mine, resolve);
    }
  return { from, licence: LICENCE, others: [...others].sort(), paths };
}

const LICENCE = "MIT, Copyright (c) OpenAI (https://openai.com)";
const groupOf = (route: string): string => /^\S+ (\/[^/]*)/.exec(route)![1]!;

function reducedRoute(route: Route, ours: Operation, resolve: (ref: string) => Schema): Route {
  const bodyOf = (body: Body | undefined, shape: (media: string) => Shape): Body => ({
    content: Object.fromEntries(
      Object.entries(body?.content ?? {}).map(([media, { schema = {} }]) => [
        media,
        { schema: reduced(schema, shape(media), resolve) },
      ]),
    ),
  });
  const [status = "200", answer] = Object.entries(route.responses ?? {}).find(([code]) => /^2\d\d$/.test(code)) ?? [];
  return {
    parameters: (route.parameters ?? [])
      .filter((one) => one.in === "query")
      .map(({ name, in: place, required = false, schema = {} }) => {
        const mine = ours.query.properties.get(name);
        return { name, in: place, required, schema: mine === undefined ? {} : reduced(schema, mine, resolve) };
      }),
    ...(route.requestBody === undefined
      ? {}
      : { requestBody: bodyOf(route.requestBody, () => ours.request ?? ANYTHING) }),
    responses: {
      [status]: bodyOf(answer, (media) => ours.response.get(media) ?? ANYTHING),
    },
  };
}
