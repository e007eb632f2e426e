/**
 * Refuses requests that two readers, such as a proxy and this server, could interpret differently, and encoded bodies.
 */
import type { IncomingMessage } from "node:http";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { PrefixdError } from "../../errors.ts";

/** Single-valued headers: of two, Node silently keeps the first. */
const SINGLE = ["host", "authorization", "content-type"];
const ABSOLUTE = /^[a-z][a-z0-9+.-]*:\/\/([^/?#]*)/i;

/** The request target without scheme and authority, if it has them (RFC 9112, 3.2.2). */
export function originForm({ url = "/" }: IncomingMessage): string {
  const rest = url.replace(ABSOLUTE, "");
  return rest.startsWith("/") || rest === url ? rest : `/${rest}`;
}

/** The host addressed: the authority of the target, else the Host header. */
export function hostOf(request: FastifyRequest): string | undefined {
  return ABSOLUTE.exec(request.originalUrl)?.[1] ?? request.headers.host;
}

/** @throws PrefixdError invalid_request */
export function checkRequest({ raw, url }: FastifyRequest): void {
  const seen = new Set<string>();
  for (let at = 0; at < raw.rawHeaders.length; at += 2) {
    const name = raw.rawHeaders[at]!.toLowerCase();
    if (SINGLE.includes(name) && seen.has(name))
      throw new PrefixdError("invalid_request", `The header ${name} is sent twice.`);
    seen.add(name);
  }
  const query = url.indexOf("?");
  if (query === -1 || !url.includes("%", query)) return;
  try {
    decodeURIComponent(url.slice(query));
  } catch {
    throw new PrefixdError("invalid_request", "The query is not percent-encoded UTF-8.");
  }
}

/** Whether a Content-Encoding changes the bytes. */
export const isEncoded = (encoding: string | undefined): boolean => !/^\s*(identity)?\s*$/i.test(encoding ?? "");

/** RFC 9110, 8.4 and 15.5.16. Without a body there is nothing to be encoded. */
export function refuseEncodedBodies(app: FastifyInstance): void {
  app.addHook("preParsing", (request, reply, payload, done) => {
    const encoding = request.headers["content-encoding"];
    const hasBody =
      request.headers["transfer-encoding"] !== undefined || Number(request.headers["content-length"] ?? 0) > 0;
    if (
      encoding === undefined ||
      !hasBody ||
      request.method === "GET" ||
      request.method === "HEAD" ||
      !isEncoded(encoding)
    )
      return done(null, payload);
    reply.header("accept-encoding", "identity");
    done(
      new PrefixdError(
        "unsupported_media_type",
        `Encoded bodies are not supported: omit Content-Encoding (${JSON.stringify(encoding.slice(0, 100))}) and send the body unencoded.`,
      ),
    );
  });
}
