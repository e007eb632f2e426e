import { STATUS_CODES, type Server } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ERRORS, PrefixdError, type ErrorCode } from "../../errors.ts";
import { countListeners } from "../../observability/event-listeners.ts";
import type { Metrics } from "../../observability/metrics.ts";
import type { ClientLimits } from "../app-parts.ts";
import { PROBLEM_TYPE, toProblem } from "../problem.ts";
import type { Traffic } from "./traffic.ts";

/** After so many milliseconds of silence the kernel asks whether a client is still there. */
export const PROBE_MS = 60_000;
/** A connection that has had its last answer is closed after so many milliseconds, whether or not the client closes it, too. */
const LAST_WORD_MS = 1_000;

/** What Node's server is made with: it looks every few seconds for requests that take too long to arrive. */
export function serverOptions({ headerMs }: ClientLimits): object {
  return {
    headersTimeout: headerMs,
    connectionsCheckingInterval: Math.min(5_000, headerMs),
    keepAlive: true,
    keepAliveInitialDelay: PROBE_MS,
    // Node would refuse a request without Host by itself, with an empty body; access-log.ts does it with a problem.
    requireHostHeader: false,
  };
}

/**
 * Bounds the number of connections, those that server.ts accepts at a second address included, and cuts those whose client does not
 * read what it is sent.
 */
export function guardConnections(app: FastifyInstance, limits: ClientLimits, metrics: Metrics, traffic: Traffic): void {
  const server: Server = app.server;
  const open = new Set<Socket>();
  // Node drops what is too much at the first address before a socket is made of it. It knows of no other address.
  if (limits.maxConnections < Infinity) server.maxConnections = limits.maxConnections;
  server.on("drop", () => metrics.connectionCut("too_many"));
  server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
    if (open.size <= limits.maxConnections) return traffic.connected(socket);
    metrics.connectionCut("too_many");
    socket.destroy();
  });
  metrics.watchConnections(() => ({ open: open.size, listeners: countListeners(server, open) }));
  // Streams bring a limit of their own: here each event would begin the time anew.
  app.addHook("onSend", (request, reply, payload, done) => {
    cutUnread(request, reply, limits.sendMs, () => metrics.connectionCut("not_reading"));
    done(null, payload);
  });
}

/** From here on the client must take something of the answer every `ms` milliseconds; Node begins the time anew when it does. */
export function cutUnread(request: FastifyRequest, reply: FastifyReply, ms: number, onCut: () => void): void {
  reply.raw.setTimeout(ms, () => {
    request.audit.code = "too_slow";
    onCut();
    reply.raw.destroy();
  });
}

const HEAD = Buffer.from("HEAD ");

/** What is not HTTP, has too large headers or takes too long: Node's parser gives up, so the answer is written by hand. */
export function refuseConnection(
  error: Error & { code?: string; rawPacket?: unknown },
  socket: Socket,
  metrics: Metrics,
): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const late = error.code === "ERR_HTTP_REQUEST_TIMEOUT";
  if (late) metrics.connectionCut("not_sending");
  // An answer to HEAD has no body. The parser tells nothing of a request whose headers it has not read to their end.
  const bodiless = Buffer.isBuffer(error.rawPacket) && error.rawPacket.subarray(0, HEAD.length).equals(HEAD);
  endWithProblem(
    socket,
    late ? "request_timeout" : error.code === "HPE_HEADER_OVERFLOW" ? "headers_too_large" : "invalid_request",
    { bodiless },
  );
}

/** The last answer on a connection. Node looks at it no more, so nothing else would close it if the client does not. */
export function endWithProblem(socket: Socket, code: ErrorCode, { bodiless = false } = {}): void {
  const { status, title } = ERRORS[code];
  const body = JSON.stringify(toProblem(new PrefixdError(code, `${title}.`), "none"));
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${bodiless ? "" : body}`,
  );
  const timer = setTimeout(() => socket.destroy(), LAST_WORD_MS);
  socket.once("close", () => clearTimeout(timer));
}
