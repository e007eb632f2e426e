import { randomBytes } from "node:crypto";
import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isLoopback } from "../config.ts";
import { PrefixdError } from "../errors.ts";
import type { AuditLog } from "../observability/audit.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { SecretFilter } from "../observability/secrets.ts";
import type { AppState } from "./app-parts.ts";
import { checkRequest, hostOf } from "./connections/request-checks.ts";
import type { Traffic } from "./connections/traffic.ts";

/** What the access log says of a request beside its route and status. Counts and ids, never texts. */
export interface Audit {
  code?: string;
  user?: string;
  key_id?: string;
  /** What was changed, for the audit log: checked ids only. */
  target?: string;
  digest?: string;
  prefix_id?: string;
  prefix_tokens?: number;
  prompt_tokens?: number;
  completion_tokens?: number;
}

declare module "fastify" {
  interface FastifyRequest {
    audit: Audit;
    /** Whether the generation service has it, which counts its outcome from there on. */
    admitted: boolean;
    /** Whether the audit log has it. */
    audited: boolean;
  }
  interface FastifyContextConfig {
    /** Requests of this route count as generate requests. */
    generates?: boolean;
    /** Requests of this route go to the audit log, as this action. */
    audit?: string;
  }
}

/** The client's own id when it is harmless in headers and logs, else a random one. */
export function requestId(raw: IncomingMessage, secrets: SecretFilter): string {
  const given = raw.headers["x-request-id"];
  return typeof given === "string" && /^[A-Za-z0-9._:-]{1,64}$/.test(given) && secrets.passes(given)
    ? given
    : randomBytes(8).toString("hex");
}

/** What is to be told of a connection's end, for each of its requests that is not over. */
const unanswered = new WeakMap<Socket, Set<() => void>>();

/**
 * Calls back once: after the last byte of the answer, or when the connection is gone. An answer that waits behind another one of its connection
 * (pipelining) hears from Node of neither.
 */
function whenOver(reply: FastifyReply, callback: () => void): void {
  const { socket } = reply.request.raw;
  const others = unanswered.get(socket);
  const callbacks = others ?? new Set();
  const over = (): void => {
    if (!callbacks.delete(over)) return;
    reply.raw.off("close", over);
    callback();
  };
  callbacks.add(over);
  reply.raw.once("close", over);
  if (others !== undefined) return;
  unanswered.set(socket, callbacks);
  socket.once("close", () => callbacks.forEach((call) => call()));
}

/** Resolves after the last byte of the answer, or when the connection is gone. */
export function answered(reply: FastifyReply): Promise<void> {
  if (isGone(reply)) return Promise.resolve();
  return new Promise((resolve) => whenOver(reply, resolve));
}

function isGone(reply: FastifyReply): boolean {
  return reply.raw.destroyed || reply.request.raw.socket.destroyed;
}

/** Aborted with "disconnected" when the client goes away before the answer is complete. */
export function abortOnDisconnect(reply: FastifyReply): AbortController {
  const controller = new AbortController();
  const onOver = (): void => {
    if (!reply.raw.writableFinished) controller.abort("disconnected");
  };
  if (isGone(reply)) onOver();
  else whenOver(reply, onOver);
  return controller;
}

export interface TrackingParts {
  readonly metrics: Pick<Metrics, "http">;
  readonly audit: AuditLog;
  /** With keys any host name will do. */
  readonly keyed: boolean;
  readonly state: Readonly<AppState>;
  readonly traffic: Traffic;
}

/** Request id on every answer, one access-log line and one count per request, and only hosts that are meant. */
export function trackRequests(app: FastifyInstance, { metrics, audit, keyed, state, traffic }: TrackingParts): void {
  app.decorateRequest("audit");
  app.decorateRequest("admitted", false);
  app.decorateRequest("audited", false);
  app.addHook("onRequest", async (request, reply) => {
    const startedAt = performance.now();
    traffic.begin(request.raw.socket);
    request.audit = {};
    reply.header("x-request-id", request.id);
    reply.header("x-content-type-options", "nosniff");
    whenOver(reply, () => {
      traffic.end();
      record(request, reply, performance.now() - startedAt, metrics);
      // Nothing was done. Of a request that has arrived it is seen when that is over, whether or not anybody still listens.
      if (!request.raw.complete) recordAudit(request, audit, "aborted");
    });
    // The client's next request goes to another server.
    if (state.phase !== "serving") reply.header("connection", "close");
    if (request.headers.host === undefined && request.raw.httpVersion === "1.1")
      throw new PrefixdError("invalid_request", "The Host header is missing.");
    checkRequest(request);
    if (!keyed) checkHost(request);
    if (state.phase === "refusing" && !request.url.startsWith("/health/") && request.url !== "/metrics") {
      throw new PrefixdError("draining", "The server is shutting down.", { retryAfter: 5 });
    }
  });
  // Also what had begun before.
  app.addHook("onSend", (request, reply, payload, done) => {
    recordAudit(request, audit, "ok");
    if (state.phase !== "serving") reply.header("connection", "close");
    done(null, payload);
  });
}

function record(request: FastifyRequest, reply: FastifyReply, ms: number, metrics: Pick<Metrics, "http">): void {
  // Node takes an answer for written whose connection was cut while it waited to be read.
  const complete = reply.raw.writableFinished && request.audit.code !== "too_slow";
  const route = request.is404 ? "unmatched" : (request.routeOptions.url ?? "unmatched");
  metrics.http(request.method, route, complete ? reply.raw.statusCode : 0, ms / 1000);
  const line = {
    method: request.method,
    route,
    status: reply.raw.statusCode,
    ms: Math.round(ms * 10) / 10,
    ...(complete ? {} : { aborted: true }),
    ...request.audit,
  };
  request.log.info(line, "request");
}

/** Once: what changes something for somebody, and every request that was refused for its key. */
function recordAudit(request: FastifyRequest, audit: AuditLog, unlessFailed: "ok" | "aborted"): void {
  const { code, user = null, key_id = null, target, digest } = request.audit;
  const action = code === "unauthorized" ? "authenticate" : request.routeOptions.config.audit;
  if (action === undefined || request.audited) return;
  request.audited = true;
  audit.record({ action, outcome: code ?? unlessFailed, user, key_id, target, digest, request_id: request.id });
}

/** Without keys a page in a browser must not reach the server by a DNS name of its own that leads to loopback. */
function checkHost(request: FastifyRequest): void {
  const host = hostOf(request);
  if (host === undefined || isLoopback(host.replace(/:\d*$/, ""))) return;
  throw new PrefixdError(
    "host_not_allowed",
    "Without keys the server only answers to localhost and loopback addresses.",
  );
}
