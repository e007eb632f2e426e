import { randomUUID } from "node:crypto";
import type { IncomingMessage } from "node:http";
import { isIP } from "node:net";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { isLoopback } from "../config.ts";
import { PrefixdError, shuttingDown } from "../errors.ts";
import type { AuditLog, Changes } from "../observability/audit.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { SecretFilter } from "../observability/secrets.ts";
import type { AppState } from "./app-parts.ts";
import { checkRequest, hostOf } from "./connections/request-checks.ts";
import { whenOver } from "./connections/response-end.ts";
import type { Traffic } from "./connections/traffic.ts";

/** Access-log fields of a request besides route and status. Counts and ids, never texts. */
export interface Audit {
  code?: string;
  user?: string;
  key_id?: string;
  /** What was changed, for the audit log; validated ids only. */
  target?: string;
  digest?: string;
  /** For the audit log only. */
  changes?: Changes;
  prefix_id?: string;
  prefix_tokens?: number;
  prompt_tokens?: number;
  completion_tokens?: number;
}

declare module "fastify" {
  interface FastifyRequest {
    audit: Audit;
    /** Whether the generation service has taken the request; it counts the outcome from then on. */
    admitted: boolean;
    /** Whether the audit log has an entry for it. */
    audited: boolean;
  }
  interface FastifyContextConfig {
    /** Requests of this route count as generate requests. */
    generates?: boolean;
    /** Requests of this route go to the audit log, as this action. */
    audit?: string;
  }
}

/** The client's id if it is safe in headers and logs, else a random one. */
export function requestId(raw: IncomingMessage, secrets: SecretFilter): string {
  const given = raw.headers["x-request-id"];
  return typeof given === "string" && /^[A-Za-z0-9._:-]{1,64}$/.test(given) && secrets.passes(given)
    ? given
    : randomId();
}

/** 64 random bits as hexadecimal digits. Node draws UUIDs' bits many at a time, several times as fast as few at a time. */
export function randomId(): string {
  const uuid = randomUUID();
  return uuid.slice(0, 8) + uuid.slice(-8);
}

export interface TrackingParts {
  readonly metrics: Pick<Metrics, "http">;
  readonly audit: AuditLog;
  /** With keys, any host name is accepted. */
  readonly keyed: boolean;
  readonly state: Readonly<AppState>;
  readonly traffic: Traffic;
}

/**
 * Sets a request id on every response, writes one access-log line and counts each request, and refuses unexpected
 * hosts.
 */
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
      // Nothing was done for a request that did not arrive whole. One that did is recorded when it ends, even if nobody
      // listens any more.
      if (!request.raw.complete) recordAudit(request, audit, "aborted");
    });
    // So that the client's next request goes to another server.
    if (state.phase !== "serving") reply.header("connection", "close");
    if (request.headers.host === undefined && request.raw.httpVersion === "1.1")
      throw new PrefixdError("invalid_request", "The Host header is missing.");
    checkRequest(request);
    if (!keyed) checkHost(request);
    if (state.phase === "refusing" && !request.url.startsWith("/health/") && request.url !== "/metrics") {
      throw shuttingDown(5);
    }
  });
  // Also for requests that began earlier.
  app.addHook("onSend", (request, reply, payload, done) => {
    recordAudit(request, audit, "ok");
    if (state.phase !== "serving") reply.header("connection", "close");
    done(null, payload);
  });
}

/** Whether the client has got all of the response. */
export function isAnswered(request: FastifyRequest, reply: FastifyReply): boolean {
  // Node counts a response as written even if its connection was cut while it waited to be read.
  return reply.raw.writableFinished && request.audit.code !== "too_slow";
}

function record(request: FastifyRequest, reply: FastifyReply, ms: number, metrics: Pick<Metrics, "http">): void {
  const complete = isAnswered(request, reply);
  const route = request.is404 ? "unmatched" : (request.routeOptions.url ?? "unmatched");
  metrics.http(request.method, route, complete ? reply.raw.statusCode : 0, ms / 1000);
  const line = {
    method: request.method,
    route,
    status: reply.raw.statusCode,
    ms: Math.round(ms * 10) / 10,
    ...(complete ? {} : { aborted: true }),
    ...request.audit,
    // undefined: no field of the line.
    changes: undefined,
  };
  request.log.info(line, "request");
}

/**
 * Records a request once: changes, and requests rejected for their key. Called when its answer is sent; a stream that
 * goes on for hours calls it when it begins.
 */
export function recordAudit(request: FastifyRequest, audit: AuditLog, unlessFailed: "ok" | "aborted"): void {
  const { code, user = null, key_id = null, target, digest, changes } = request.audit;
  const action =
    code === "unauthorized" || code === "user_suspended" ? "authenticate" : request.routeOptions.config.audit;
  if (action === undefined || request.audited) return;
  request.audited = true;
  audit.record({
    action,
    outcome: code ?? unlessFailed,
    user,
    key_id,
    address: clientAddress(request),
    target,
    digest,
    // Of an action that failed, nothing is known to have changed.
    changes: code === undefined ? changes : undefined,
    request_id: request.id,
  });
}

/** The client's address: of its connection, or as a trusted proxy tells it. */
function clientAddress({ ip, socket }: FastifyRequest): string | null {
  // A proxy may pass on anything that a client calls itself.
  const address = isIP(ip) === 0 ? (socket.remoteAddress ?? null) : ip;
  // An IPv4 address on a socket of both families.
  return address?.replace(/^::ffff:(?=\d+\.)/, "") ?? null;
}

/**
 * Without keys, a web page must not reach the server through its own DNS name that resolves to loopback (DNS
 * rebinding).
 */
export function checkHost(request: FastifyRequest): void {
  const host = hostOf(request);
  if (host === undefined || isLoopback(host.replace(/:\d*$/, ""))) return;
  throw new PrefixdError(
    "host_not_allowed",
    "Without keys the server accepts only localhost and loopback addresses as Host.",
  );
}
