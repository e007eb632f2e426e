import type { FastifyInstance, FastifySchema, RouteOptions } from "fastify";
import { stringify } from "yaml";
import { VERSION } from "../../version.ts";
import { problems } from "../common-schema.ts";
import { nullableFields } from "../validation.ts";

export const OPENAPI_OPTIONS = {
  openapi: {
    openapi: "3.1.0",
    info: {
      title: "prefixd",
      version: VERSION,
      description:
        "One frozen GPT-2 serves every user's trained prefix.\n\nErrors are RFC 9457 problem details with a stable `code`. Every answer has an `x-request-id`; send one to choose it.\n\nBodies are JSON in UTF-8, or multipart for uploads. An optional field that is null counts as absent, unless the field gives null a meaning of its own.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    components: {
      securitySchemes: {
        key: {
          type: "http",
          scheme: "bearer",
          description: "A user's key, or the admin key. A server without an admin key requires no keys.",
        },
      },
    },
    security: [{ key: [] }],
    servers: [{ url: "/", description: "The server that this description comes from" }],
    tags: [
      { name: "generate", description: "Text from a prefix" },
      { name: "openai", description: "What OpenAI's clients, and vLLM's, already speak" },
      { name: "fine-tuning", description: "Training prefixes, as OpenAI's clients fine-tune models" },
      { name: "prefixes", description: "Registering, listing and removing prefixes" },
      { name: "users", description: "Users, keys and usage; with the admin key, except for one's own usage" },
      { name: "operation", description: "Health and metrics" },
    ],
  },
  transform: ({ schema, url, route }: { schema: FastifySchema; url: string; route: RouteOptions }) => ({
    schema: route.config?.access === "public" ? { ...schema, security: [] } : schema,
    url,
  }),
} as const;

type Json = null | string | number | boolean | Json[] | { [key: string]: Json };

/** Answers that may come instead of any route's: from Node's parser, and from the balancer that docker/ has. */
const INSTEAD_OF_ROUTES = {
  RequestTimeout: ["408", "request_timeout"],
  HeadersTooLarge: ["431", "headers_too_large"],
  ReplicaFailed: ["502", "replica_failed"],
  ReplicaSilent: ["504", "replica_silent"],
} as const;

/** Our own keywords, which only the server reads; see validation.ts. */
const PRIVATE = new Set(["hint", "elsewhere", "unchecked"]);

/** The API's description, from the app's actual routes. The app must be ready. */
export function openapiDocument(app: FastifyInstance): Json {
  const schemas: { [key: string]: Json } = {};
  const raw = JSON.parse(JSON.stringify(app.swagger()), forGenerators) as { [key: string]: Json };
  const out = share(raw, schemas) as { [key: string]: Json };
  const responses = Object.entries(INSTEAD_OF_ROUTES).map(([name, [status, code]]): [string, Json] => [
    name,
    share(JSON.parse(JSON.stringify(problems(code)[status])) as Json, schemas),
  ]);
  return {
    ...out,
    components: {
      ...(out["components"] as object),
      schemas: Object.fromEntries(Object.entries(schemas).sort(([a], [b]) => (a < b ? -1 : 1))),
      responses: Object.fromEntries(responses),
    },
  };
}

export const openapiYaml = (document: Json): string =>
  stringify(document, { lineWidth: 120, aliasDuplicateObjects: false });

/** What the validator leaves unsaid, and what code generators need. A JSON reviver, so nested values come first. */
function forGenerators(key: string, value: unknown): unknown {
  if (key === "requestBody") sayNull(value as RequestBody);
  else if (key === "responses")
    for (const [name, [status]] of Object.entries(INSTEAD_OF_ROUTES))
      (value as Record<string, unknown>)[status] ??= { $ref: `#/components/responses/${name}` };
  return value;
}

interface RequestBody {
  readonly content: Record<string, { schema: { properties?: Record<string, Record<string, unknown>> } }>;
}

/** Declares null where it means that an optional body field is absent. */
function sayNull({ content }: RequestBody): void {
  for (const [type, { schema }] of Object.entries(content)) {
    if (type === "application/json")
      for (const name of nullableFields(schema)) schema.properties![name] = orNull(schema.properties![name]!);
  }
}

function orNull(schema: Record<string, unknown>): Record<string, unknown> {
  const { type, anyOf } = schema;
  // Other places refer to a named schema, so leave it as it is; and generators make enums of strings alone.
  if (schema["title"] !== undefined || "enum" in schema) return { anyOf: [schema, { type: "null" }] };
  if (Array.isArray(anyOf)) return { ...schema, anyOf: [...(anyOf as unknown[]), { type: "null" }] };
  return { ...schema, ...(type === undefined ? {} : { type: [type, "null"] }) };
}

/**
 * Moves schemas with a one-word title to components and refers to them; drops our own keywords. Gives enums a type, and
 * says defaults in words: generators make a property with `default` required, also in requests. Examples stay as they
 * are.
 */
function share(node: Json, schemas: { [key: string]: Json }): Json {
  if (Array.isArray(node)) return node.map((item) => share(item, schemas));
  if (node === null || typeof node !== "object") return node;
  const out: { [key: string]: Json } = {};
  for (const [key, value] of Object.entries(node)) {
    if (PRIVATE.has(key)) continue;
    out[key] = key === "example" || key === "examples" ? value : share(value, schemas);
  }
  // Tuples in OpenAPI 3.1's dialect of JSON Schema.
  if (Array.isArray(out["items"])) {
    Object.assign(out, { prefixItems: out["items"], items: false, maxItems: out["items"].length });
    delete out["additionalItems"];
  }
  if (Array.isArray(out["enum"]) && !("type" in out)) out["type"] = typeOf(out["enum"]);
  sayDefaults(out);
  const { title, ...rest } = out;
  if (typeof title !== "string" || !/^[A-Z]\w+$/.test(title) || !("type" in out)) return out;
  schemas[title] = rest;
  return { $ref: `#/components/schemas/${title}` };
}

function typeOf(values: readonly Json[]): Json {
  const types = [...new Set(values.map((value) => (value === null ? "null" : typeof value)))];
  return types.length === 1 ? types[0]! : types;
}

/** Moves the defaults of an object's properties to their descriptions. */
function sayDefaults({ properties }: { [key: string]: Json }): void {
  if (typeof properties !== "object" || properties === null) return;
  for (const property of Object.values(properties)) {
    if (typeof property !== "object" || property === null || Array.isArray(property) || !("default" in property))
      continue;
    const { default: value, description = "" } = property;
    const said = typeof description === "string" && description !== "" ? `${description.replace(/\.$/, "")}. ` : "";
    property["description"] = `${said}Default: ${JSON.stringify(value)}.`;
    delete property["default"];
  }
}
