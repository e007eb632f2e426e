/** What an answer to a refused body says: which limit it met, its value, and what the request asked for. */
import type { FastifyInstance, FastifyRequest } from "fastify";
import { PrefixdError } from "../errors.ts";
import { isEncoded } from "./connections/request-checks.ts";

/** For a body longer than any that the route reads. */
export function largerThanRoute({ routeOptions }: FastifyRequest): string {
  return `This route takes bodies of at most ${routeOptions.bodyLimit} bytes (--request-body-limit).`;
}

/** For a body of a type that the route does not read. */
export function notTheTypes({ routeOptions }: FastifyRequest): string {
  const { consumes, body } = (routeOptions.schema ?? {}) as { consumes?: readonly string[]; body?: unknown };
  const types = consumes ?? (body === undefined ? [] : ["application/json"]);
  return types.length === 0 ? "This route takes no body." : `This route takes ${types.join(" or ")}.`;
}

/** The form parser is the whole server's: routes that take no form would read one as no body. */
export function refuseForms(app: FastifyInstance): void {
  app.addHook("preParsing", (request, _reply, payload, done) => {
    const { consumes } = (request.routeOptions.schema ?? {}) as { consumes?: readonly string[] };
    const isForm = /^\s*multipart\//i.test(request.headers["content-type"] ?? "");
    const takesNone = request.method === "GET" || request.method === "HEAD";
    if (!isForm || takesNone || request.is404 || consumes !== undefined) return done(null, payload);
    done(new PrefixdError("unsupported_media_type", notTheTypes(request)));
  });
}

/** Adds to the error of a body what was sent. Other errors stay as they are. */
export function withWhatWasSent(error: PrefixdError, { headers }: FastifyRequest): PrefixdError {
  const sent =
    error.code === "body_too_large"
      ? lengthOf(headers["content-length"])
      : error.code === "unsupported_media_type" && !isEncoded(headers["content-encoding"])
        ? typeOf(headers["content-type"])
        : null;
  if (sent === null) return error;
  const { code, message, cause, retryAfter, limit, field } = error;
  return new PrefixdError(code, `${message} ${sent}`, {
    cause,
    ...(retryAfter === undefined ? {} : { retryAfter }),
    ...(limit === undefined ? {} : { limit }),
    ...(field === undefined ? {} : { field }),
  });
}

const lengthOf = (length: string | undefined): string =>
  length === undefined ? "The request came in chunks and is longer." : `The request has ${length} bytes.`;

const typeOf = (type: string | undefined): string =>
  type === undefined ? "The request names no content type." : `The request has ${JSON.stringify(type.slice(0, 100))}.`;
