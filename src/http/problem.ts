import type { FastifyReply, FastifyRequest } from "fastify";
import { ERRORS, PrefixdError, type ErrorCode } from "../errors.ts";
import { largerThanRoute, notTheTypes, withWhatWasSent } from "./body-refusals.ts";
import { rateLimitHeaders } from "./rate-limit-headers.ts";
import { isOpenAiPath, shouldNotRetry, toOpenAiError } from "./v1/errors.ts";

/** A problem document (RFC 9457) with our stable code. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly code: ErrorCode;
  readonly request_id: string;
  /** Of the request's trace, where it is traced. */
  readonly trace_id?: string;
}

export const PROBLEM_TYPE = "application/problem+json";

/** Errors whose details could reveal internals: these go to the log only. */
const MASKED: ReadonlySet<ErrorCode> = new Set(["internal", "model_failed"]);

function publicDetail(error: PrefixdError): string {
  return MASKED.has(error.code)
    ? "The request failed on the server; its log has the reason under the request id."
    : error.message;
}

export function toProblem(error: PrefixdError, requestId: string, traceId?: string): Problem {
  const { code } = error;
  const { status, title } = ERRORS[code];
  return {
    type: `urn:prefixd:error:${code}`,
    title,
    status,
    detail: publicDetail(error),
    code,
    request_id: requestId,
    ...(traceId === undefined ? {} : { trace_id: traceId }),
  };
}

const problemOf = (error: PrefixdError, { id, span }: Pick<FastifyRequest, "id" | "span">): Problem =>
  toProblem(error, id, span?.traceId);

/** Errors that Fastify and its plugins throw for bad requests, as our codes. */
const FOREIGN: Readonly<Record<string, readonly [ErrorCode, string | ((request: FastifyRequest) => string)]>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: ["body_too_large", largerThanRoute],
  FST_REQ_FILE_TOO_LARGE: ["body_too_large", "A file is larger than this route accepts."],
  FST_ERR_CTP_INVALID_MEDIA_TYPE: ["unsupported_media_type", notTheTypes],
  FST_ERR_CTP_EMPTY_TYPE: ["unsupported_media_type", notTheTypes],
  FST_ERR_CTP_EMPTY_JSON_BODY: ["invalid_request", "The body is empty; it must be JSON."],
  FST_ERR_CTP_INVALID_JSON_BODY: ["invalid_request", "The body is not valid JSON."],
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: ["invalid_request", "The body is not as long as Content-Length says."],
  FST_ERR_BAD_URL: ["invalid_request", "The path is not a valid URL."],
  FST_ERR_MAX_PARAM_LENGTH: ["invalid_request", "A part of the path is too long."],
  FST_PARTS_LIMIT: ["invalid_request", "The form has too many parts."],
  FST_FILES_LIMIT: ["invalid_request", "The form has too many files."],
  FST_FIELDS_LIMIT: ["invalid_request", "The form has too many fields."],
  FST_PROTO_VIOLATION: ["invalid_request", "A field of the form has a name that is not allowed."],
  FST_INVALID_MULTIPART_CONTENT_TYPE: ["unsupported_media_type", "The body is not multipart/form-data."],
  FST_MP_PREMATURE_CLOSE: ["invalid_request", "The form ended too early."],
};

/**
 * Converts any error to one of ours. One not known to be the client's fault becomes `internal`. Without the request,
 * errors of its body do not say what the route takes.
 */
export function toPrefixdError(error: unknown, request?: FastifyRequest): PrefixdError {
  if (error instanceof PrefixdError) return error;
  if (error instanceof Error) {
    const code = "code" in error && typeof error.code === "string" ? error.code : "";
    const known = Object.hasOwn(FOREIGN, code) ? FOREIGN[code] : undefined;
    if (known) {
      const [ours, text] = known;
      const detail = typeof text === "string" ? text : request === undefined ? ERRORS[ours].title : text(request);
      return new PrefixdError(ours, detail, { cause: error });
    }
    // For instance JSON with __proto__: a thrown status below 500 blames the client.
    const status: unknown = "statusCode" in error ? error.statusCode : undefined;
    if (typeof status === "number" && status >= 400 && status < 500) {
      return new PrefixdError("invalid_request", "The request is malformed.", { cause: error });
    }
  }
  return new PrefixdError("internal", "Unexpected error.", { cause: error });
}

/** The one place where errors become responses. */
export function sendProblem(request: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply {
  const error = withWhatWasSent(toPrefixdError(thrown, request), request);
  logFailure(request, error);
  request.audit.code = error.code;
  if (error.retryAfter !== undefined) reply.header("retry-after", Math.max(1, Math.ceil(error.retryAfter)));
  if (error.limit !== undefined) reply.headers(rateLimitHeaders(error.limit));
  if (error.code === "unauthorized") reply.header("www-authenticate", "Bearer");
  if (error.code === "draining" || error.code === "upload_stalled") reply.header("connection", "close");
  reply.code(error.status);
  if (isOpenAiPath(request.url)) {
    if (shouldNotRetry(error)) reply.header("x-should-retry", "false");
    return reply
      .type("application/json; charset=utf-8")
      .send(JSON.stringify(toOpenAiError(error, publicDetail(error))));
  }
  // As bytes: Fastify adds a charset to strings, which this media type does not have.
  return reply.header("content-type", PROBLEM_TYPE).send(Buffer.from(JSON.stringify(problemOf(error, request))));
}

/** The event that ends a stream which has begun. OpenAI's clients look for errors in unnamed events. */
export function errorEvent(error: PrefixdError, request: Pick<FastifyRequest, "id" | "url" | "span">): string {
  return isOpenAiPath(request.url)
    ? `data: ${JSON.stringify(toOpenAiError(error, publicDetail(error)))}\n\n`
    : `event: error\ndata: ${JSON.stringify(problemOf(error, request))}\n\n`;
}

/** Answers of 500 and above that are no failures. */
const INTENDED: ReadonlySet<ErrorCode> = new Set(["draining", "training_off"]);

/** Logs our own failures with their cause; client errors show up in the access log by code. */
export function logFailure(request: FastifyRequest, error: PrefixdError): void {
  if (error.status >= 500 && !INTENDED.has(error.code))
    request.log.error({ err: error, code: error.code }, "request failed");
}
