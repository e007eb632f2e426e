import { STATUS_CODES, type Server } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ERRORS, PrefixdError, type ErrorCode } from "../../errors.ts";
import { countListeners } from "../../observability/event-listeners.ts";
import type { Metrics } from "../../observability/metrics.ts";
import type { ClientLimits } from "../app-parts.ts";
import { PROBLEM_TYPE, toProblem } from "../problem.ts";
import type { Traffic } from "./traffic.ts";

/** Milliseconds of silence after which the kernel probes whether a client is still there. */
export const PROBE_MS = 60_000;
/** Milliseconds after its last response when a connection is closed, even if the client does not close it. */
const LAST_WORD_MS = 1_000;

/** Options of Node's server, which checks every few seconds for requests that take too long to arrive. */
export function serverOptions({ headerMs }: ClientLimits): object {
  return {
    headersTimeout: headerMs,
    connectionsCheckingInterval: Math.min(5_000, headerMs),
    keepAlive: true,
    keepAliveInitialDelay: PROBE_MS,
    // Node would refuse a request without Host with an empty body; access-log.ts does so with a problem.
    requireHostHeader: false,
  };
}

/**
 * Limits the number of connections, including those that server.ts accepts at a second address, and cuts those whose
 * client does not read.
 */
export function guardConnections(app: FastifyInstance, limits: ClientLimits, metrics: Metrics, traffic: Traffic): void {
  const server: Server = app.server;
  const open = new Set<Socket>();
  // At the first address Node drops excess connections before creating a socket; it does not know the other addresses.
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
  // Streams have their own limit: here each event would restart the timeout.
  app.addHook("onSend", (request, reply, payload, done) => {
    cutUnread(request, reply, limits.sendMs, () => metrics.connectionCut("not_reading"));
    done(null, payload);
  });
}

/**
 * From now on the client must read something of the response every `ms` milliseconds; each read restarts Node's
 * timeout.
 */
export function cutUnread(request: FastifyRequest, reply: FastifyReply, ms: number, onCut: () => void): void {
  reply.raw.setTimeout(ms, () => {
    request.audit.code = "too_slow";
    onCut();
    reply.raw.destroy();
  });
}

const HEAD = Buffer.from("HEAD ");

/**
 * Answers requests that Node's parser gives up on: not HTTP, headers too large, or too slow. The response is written by
 * hand.
 */
export function refuseConnection(
  error: Error & { code?: string; rawPacket?: unknown },
  socket: Socket,
  metrics: Metrics,
): void {
  if (error.code === "ECONNRESET" || !socket.writable || isAnswering(socket)) return void socket.destroy();
  const late = error.code === "ERR_HTTP_REQUEST_TIMEOUT";
  if (late) metrics.connectionCut("not_sending");
  // A response to HEAD has no body. The parser reports nothing about a request whose headers are incomplete.
  const bodiless = Buffer.isBuffer(error.rawPacket) && error.rawPacket.subarray(0, HEAD.length).equals(HEAD);
  endWithProblem(
    socket,
    late ? "request_timeout" : error.code === "HPE_HEADER_OVERFLOW" ? "headers_too_large" : "invalid_request",
    { bodiless },
  );
}

/** Whether a response has begun, such as a stream: another one would become part of it. As in Node's own handler. */
function isAnswering(socket: Socket & { _httpMessage?: { headersSent: boolean } | null }): boolean {
  return socket._httpMessage?.headersSent === true;
}

/** Writes the last response on a connection. Node no longer watches it, so it is closed here if the client does not. */
export function endWithProblem(socket: Socket, code: ErrorCode, { bodiless = false } = {}): void {
  const { status, title } = ERRORS[code];
  const body = JSON.stringify(toProblem(new PrefixdError(code, `${title}.`), "none"));
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${bodiless ? "" : body}`,
  );
  const timer = setTimeout(() => socket.destroy(), LAST_WORD_MS);
  socket.once("close", () => clearTimeout(timer));
}
