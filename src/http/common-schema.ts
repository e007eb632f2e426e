import Type, { type TObject, type TSchema } from "typebox";
import { ANY_ROUTE_CODES, ERRORS, type ErrorCode } from "../errors.ts";

/** A schema that openapi.yaml lists once, under `components/schemas/<title>`. */
export const named = <T extends TSchema>(title: string, schema: T): T => Object.assign(schema, { title });

export const CODES = Object.keys(ERRORS) as ErrorCode[];

export const ProblemSchema = named(
  "Problem",
  Type.Object(
    {
      type: Type.String({ description: "urn:prefixd:error:<code>" }),
      title: Type.String({ description: "The same for every error of this code" }),
      status: Type.Integer(),
      detail: Type.String({ description: "What was wrong with this request, for humans" }),
      code: Type.Enum(CODES, { description: "Stable, for programs; docs/reference/errors.md lists them" }),
      request_id: Type.String({ description: "The same as the header x-request-id" }),
      trace_id: Type.Optional(Type.String({ description: "Of the request's trace, where the server traces it" })),
    },
    { additionalProperties: false, description: "RFC 9457. In a stream it is the data of an `event: error`." },
  ),
);

/** The balancer's answer in front of any route, a problem whatever form the route's own errors have. */
const NO_REPLICA = "no_replica" satisfies ErrorCode;

/** Errors for a body where none is expected: Fastify reads DELETE's bodies, too. */
export const UNREAD_BODY = ["body_too_large", "unsupported_media_type"] as const satisfies ErrorCode[];

export interface ResponseDocument {
  description: string;
  headers?: Record<string, unknown>;
  content: Record<string, { schema: TSchema; example?: unknown; examples?: Record<string, unknown> }>;
}

const urn = (code: ErrorCode): string => `urn:prefixd:error:${code}`;

/** How a route's errors look. */
export interface ErrorFormat {
  readonly type: string;
  readonly schema: TSchema;
  readonly example: (code: ErrorCode) => unknown;
}

const PROBLEM: ErrorFormat = {
  type: "application/problem+json",
  schema: ProblemSchema,
  example: (code) => {
    const { title, status } = ERRORS[code];
    return { type: urn(code), title, status, detail: `${title}.`, code, request_id: "4f1c2a9e8b7d6c50" };
  },
};

/** A route's error responses as problems; see `errorResponses`. */
export const problems = (...codes: ErrorCode[]): Record<string, ResponseDocument> => errorResponses(codes, PROBLEM);

/** A route's error responses, one entry per status with an example for each of its codes. */
export function errorResponses(codes: readonly ErrorCode[], format: ErrorFormat): Record<string, ResponseDocument> {
  const out: Record<string, ResponseDocument> = {};
  const keyed: ErrorCode[] = codes.includes("unauthorized") ? ["user_suspended"] : [];
  for (const [status, group] of groupByStatus(new Set([...codes, ...keyed, ...ANY_ROUTE_CODES, NO_REPLICA]))) {
    const content: ResponseDocument["content"] = {};
    for (const code of group) {
      const { type, schema, example } = code === NO_REPLICA ? PROBLEM : format;
      const { examples } = (content[type] ??= { schema, examples: {} });
      examples![code] = { summary: ERRORS[code].title, value: example(code) };
    }
    out[status] = {
      description: group.map((code) => `\`${code}\`: ${ERRORS[code].title}.`).join("\n\n"),
      ...(status === 429
        ? { headers: RATE_LIMIT }
        : group.some((code) => code === "store_unavailable" || code === "draining")
          ? { headers: RETRY_AFTER }
          : {}),
      content,
    };
  }
  return out;
}

function groupByStatus(codes: Iterable<ErrorCode>): Map<number, ErrorCode[]> {
  const out = new Map<number, ErrorCode[]>();
  for (const code of codes) out.set(ERRORS[code].status, [...(out.get(ERRORS[code].status) ?? []), code]);
  return out;
}

const RETRY_AFTER = { "Retry-After": { type: "integer", description: "Seconds to wait before trying again" } };

/** draft-ietf-httpapi-ratelimit-headers; the name is `tokens`, `queue` or `user_queue`. */
const RATE_LIMIT = {
  ...RETRY_AFTER,
  "RateLimit-Policy": {
    type: "string",
    description: "The limit that was reached: its name, quota and, for tokens, window in seconds",
    example: '"tokens";q=60000;w=60',
  },
  RateLimit: {
    type: "string",
    description: "What remains of it, and the seconds until there is room again",
    example: '"tokens";r=0;t=5',
  },
};

export const ETAG_HEADER = { ETag: { type: "string", description: "The prefix's digest in double quotes" } };

/** A response without a body. */
export const empty = (description: string, headers: Record<string, unknown> = {}): object => ({
  type: "null",
  description,
  ...(Object.keys(headers).length > 0 ? { headers } : {}),
});

export function json(
  description: string,
  schema: TSchema,
  more: { headers?: Record<string, unknown>; example?: unknown } = {},
): ResponseDocument {
  const content = { "application/json": { schema, ...(more.example === undefined ? {} : { example: more.example }) } };
  return { description, ...(more.headers ? { headers: more.headers } : {}), content };
}

/** A name or `user/name`. The exact syntax is checked where ids are parsed, so that its error has its own code. */
export const PrefixIdParams = Type.Object({
  id: Type.String({
    description: "The prefix's id: its name, or `user%2Fname` for one that another user shares",
    examples: ["intent"],
  }),
});

export const strict = <T extends Record<string, TSchema>>(
  properties: T,
  options: Record<string, unknown> = {},
): TObject<T> => Type.Object(properties, { additionalProperties: false, ...options });
