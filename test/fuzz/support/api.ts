/** What openapi.yaml says: operations, their requests, and which answers they may give. */
import { readFileSync } from "node:fs";
import { Compile } from "typebox/compile";
import { parse } from "yaml";
import { ERRORS, type ErrorCode } from "../../../src/errors.ts";
import type { RawRequest, RawResponse } from "./raw-http.ts";

/** The keywords of JSON Schema that openapi.yaml uses; references are resolved. */
export interface Schema {
  readonly type?: string | readonly string[];
  readonly enum?: readonly unknown[];
  readonly anyOf?: readonly Schema[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly required?: readonly string[];
  readonly additionalProperties?: boolean | Schema;
  readonly minProperties?: number;
  readonly maxProperties?: number;
  /** false: none beside `prefixItems`. */
  readonly items?: Schema | false;
  readonly prefixItems?: readonly Schema[];
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly uniqueItems?: boolean;
  readonly minLength?: number;
  readonly maxLength?: number;
  readonly pattern?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
}

export interface Parameter {
  readonly name: string;
  readonly in: "path" | "query" | "header";
  readonly required?: boolean;
  readonly schema: Schema;
}

interface Media {
  readonly schema: Schema;
  readonly example?: unknown;
  readonly examples?: Readonly<Record<string, unknown>>;
}

export interface Operation {
  readonly method: string;
  readonly path: string;
  readonly operationId: string;
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, Media>> };
  readonly responses: Readonly<Record<string, { readonly content?: Readonly<Record<string, Media>> }>>;
}

interface Document {
  readonly paths: Readonly<
    Record<
      string,
      Readonly<Record<string, Omit<Operation, "method" | "path" | "parameters"> & { parameters?: Parameter[] }>>
    >
  >;
  readonly components: {
    readonly schemas: Readonly<Record<string, Schema>>;
    readonly responses: Readonly<Record<string, unknown>>;
  };
}

const raw = parse(readFileSync(new URL("../../../openapi.yaml", import.meta.url), "utf8")) as Document;
const document = resolved(raw) as Document;

/** Every `$ref` replaced by what it names. */
function resolved(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(resolved);
  if (typeof value !== "object" || value === null) return value;
  if ("$ref" in value && typeof value.$ref === "string") return resolved(referred(value.$ref));
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, resolved(inner)]));
}

/** What `#/components/schemas/NAME` or `#/components/responses/NAME` is. */
function referred(ref: string): unknown {
  const [, , kind, name = ""] = ref.split("/");
  return kind === "responses" ? raw.components.responses[name] : raw.components.schemas[name];
}

export const OPERATIONS: readonly Operation[] = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({
    ...operation,
    parameters: operation.parameters ?? [],
    method: method.toUpperCase(),
    path,
  })),
);

const validators = new Map<Schema, ReturnType<typeof Compile>>();

/** What is wrong with the value, or null. */
function mismatch(schema: Schema, value: unknown): string | null {
  const validator = validators.get(schema) ?? Compile(schema as never);
  validators.set(schema, validator);
  return validator.Check(value) ? null : JSON.stringify(validator.Errors(value).slice(0, 3));
}

/** The operation that a request line reaches; null: none that openapi.yaml knows. */
export function operationOf({ method, target }: Pick<RawRequest, "method" | "target">): Operation | null {
  // OpenAI's Python client does not escape the slash of a model's id.
  const path = (target.split(/[?#]/, 1)[0] ?? "").replace(/^(\/v1\/models\/[^/]*)\/([^/]*)$/, "$1%2F$2");
  const segments = path.split("/");
  const reaches = (operation: Operation): boolean => {
    const pattern = operation.path.split("/");
    const fits =
      pattern.length === segments.length &&
      pattern.every((part, i) => part.startsWith("{") || part === decoded(segments[i] ?? ""));
    return fits && (operation.method === method || (method === "HEAD" && operation.method === "GET"));
  };
  return OPERATIONS.find(reaches) ?? null;
}

function decoded(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** Answers that come before a route has been found, or instead of one. */
const BEFORE_ROUTING: readonly ErrorCode[] = ["invalid_request", "headers_too_large", "host_not_allowed"];
const NO_ROUTE: readonly ErrorCode[] = [
  ...BEFORE_ROUTING,
  "not_found",
  "method_not_allowed",
  "unauthorized",
  "body_too_large",
  "unsupported_media_type",
];

/** Throws unless the answer is one that openapi.yaml lists for the request, whole and of the form that it gives. */
export function checkAnswer(request: RawRequest, { status, headers, body }: RawResponse): void {
  const operation = operationOf(request);
  const expect = (fine: boolean, what: string): void => {
    if (!fine)
      throw new Error(
        `${operation?.operationId ?? "no operation"} answered ${status} ${body.toString().slice(0, 300)}: ${what}`,
      );
  };
  const type = (headers.get("content-type") ?? "").split(";")[0]!;
  const expectCode = (code: ErrorCode): void => {
    expect(status < 500, "an error of ours");
    const documented = Object.keys(operation?.responses[status]?.content?.[type]?.examples ?? {});
    // A path with nothing in the place of a parameter may or may not be one of the route's.
    const elsewhere = operation === null || /\/(\/|$|[?#])/.test(request.target) ? NO_ROUTE : BEFORE_ROUTING;
    expect([...documented, ...elsewhere].includes(code), "not documented for this route");
  };
  if (request.method === "HEAD") return expect(body.length === 0, "HEAD has no body");
  if (status >= 400 && type === "application/problem+json") {
    const problem = JSON.parse(body.toString()) as { code: ErrorCode; status: number; request_id: string };
    const reason = mismatch(document.components.schemas["Problem"]!, problem);
    expect(reason === null, `no Problem: ${reason}`);
    expect(problem.status === status && ERRORS[problem.code].status === status, "the status is not the code's");
    expect(problem.request_id === (headers.get("x-request-id") ?? "none"), "the request id is not the header's");
    return expectCode(problem.code);
  }
  // Errors under /v1 have OpenAI's form, also where there is no route.
  if (status >= 400 && /^\/v1(\/|$|[?#])/.test(request.target)) {
    const { error } = JSON.parse(body.toString()) as { error: { code: ErrorCode } };
    const reason = mismatch(document.components.schemas["OpenAiError"]!, { error });
    expect(reason === null, `no OpenAiError: ${reason}`);
    expect(ERRORS[error.code].status === status, "the status is not the code's");
    return expectCode(error.code);
  }
  // The documentation's pages, which it does not list itself.
  if (operation === null)
    return expect(
      status < 400 && /^\/($|[?#]|docs|console|openapi)/.test(request.target),
      "there is nothing at this path",
    );
  const documented = operation.responses[status];
  expect(documented !== undefined, "the status is not documented");
  const media = documented!.content?.[type];
  if (documented!.content === undefined) return expect(body.length === 0, "there should be no body");
  expect(media !== undefined, `content type ${type} is not documented`);
  if (type === "application/json") {
    const reason = mismatch(media!.schema, JSON.parse(body.toString()));
    expect(reason === null, `not what the schema says: ${reason}`);
  }
  if (type === "text/event-stream")
    checkStream(body.toString(), media!.schema, operation.operationId === "watchLive", expect);
}

function checkStream(
  text: string,
  schema: Schema,
  endless: boolean,
  expect: (fine: boolean, what: string) => void,
): void {
  const events = text.split("\n\n");
  expect(events.pop() === "", "the stream ends within an event");
  if (!endless) expect(events.pop() === "data: [DONE]", "the stream does not end with [DONE]");
  for (const [i, event] of events.entries()) {
    const data: unknown = JSON.parse(/^data: (.*)$/.exec(event)?.[1] ?? "null");
    const reason = mismatch(schema, data);
    expect(reason === null, `event ${i}: ${reason}`);
    const { object } = data as { object?: string };
    const isEnd = object === "generation.end";
    expect(object?.startsWith("generation.") !== true || isEnd === (i === events.length - 1), `event ${i}: ${object}`);
  }
}
