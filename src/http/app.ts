import type { Socket } from "node:net";
import { STATUS_CODES } from "node:http";
import multipart from "@fastify/multipart";
import swagger from "@fastify/swagger";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import Fastify, { LogController, type FastifyBaseLogger, type FastifyReply, type FastifyRequest } from "fastify";
import { ERRORS, PrefixdError, type ErrorCode } from "../errors.ts";
import { guardAccess, type DeclaredRoute } from "./access.ts";
import type { AppParts, TypedApp } from "./app-parts.ts";
import { OPENAPI_OPTIONS } from "./openapi.ts";
import { PROBLEM_TYPE, sendProblem, toPrefixdError, toProblem } from "./problem.ts";
import { requestId, trackRequests } from "./requests.ts";
import { RouteIndex } from "./route-index.ts";
import { adminRoutes } from "./routes/admin.ts";
import { docsRoutes } from "./routes/docs.ts";
import { generateRoutes } from "./routes/generate.ts";
import { healthRoutes } from "./routes/health.ts";
import { modelRoutes } from "./routes/model.ts";
import { prefixRoutes } from "./routes/prefixes.ts";
import { usageRoutes } from "./routes/usage.ts";
import { validatorCompiler } from "./validation.ts";

/** Milliseconds. The time-outs bound what a client may take to send; a generation may take as long as it needs. */
const HEADERS_TIMEOUT = 20_000;
const REQUEST_TIMEOUT = 300_000;
const KEEP_ALIVE_TIMEOUT = 72_000;

export interface AppState {
  /** Set by `drain`: everything new is answered 503. */
  draining: boolean;
}

export interface App {
  readonly fastify: TypedApp;
  readonly state: AppState;
  readonly routes: readonly DeclaredRoute[];
}

/** The HTTP side out of its parts: routes, one error handler, access log. Does not listen yet. */
export async function buildApp(parts: AppParts): Promise<App> {
  const state: AppState = { draining: false };
  // Wider than pino's own type, so that the app is one of any logger.
  const logger: FastifyBaseLogger = parts.logger;
  const fastify: TypedApp = Fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "request_id" }),
    genReqId: requestId,
    requestIdHeader: false,
    bodyLimit: parts.limits.requestBody,
    requestTimeout: REQUEST_TIMEOUT,
    keepAliveTimeout: KEEP_ALIVE_TIMEOUT,
    // Node would refuse a request without Host by itself, with an empty body; requests.ts does it with a problem.
    http: { headersTimeout: HEADERS_TIMEOUT, requireHostHeader: false },
    // While it shuts down our own hook answers, with a problem body.
    return503OnClosing: false,
    routerOptions: { maxParamLength: 512 },
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply) => void frameworkError(error, request, reply),
    clientErrorHandler,
  }).withTypeProvider<TypeBoxTypeProvider>();
  // Node would answer 417 with an empty body to any Expect but 100-continue; RFC 9110, 10.1.1 lets a server ignore what it does not know.
  fastify.server.on("checkExpectation", (request, response) => void fastify.server.emit("request", request, response));

  // Bodies are JSON or multipart; a browser can send text/plain across origins without asking.
  fastify.removeContentTypeParser("text/plain");
  fastify.setValidatorCompiler(validatorCompiler);
  // Answers are made by our own code, so they need no filter on their way out; a test holds them against the schemas.
  fastify.setSerializerCompiler(() => (data: unknown) => JSON.stringify(data));
  fastify.setErrorHandler((error, request, reply) => {
    countRefusal(parts, request, toPrefixdError(error).code);
    return sendProblem(request, reply, error);
  });
  trackRequests(fastify, { metrics: parts.metrics, audit: parts.audit, keyed: parts.auth.keyed, state });
  const checkAccess = guardAccess(fastify, parts.auth);
  const routes = new RouteIndex(fastify);
  fastify.setNotFoundHandler((request, reply) => {
    const allowed = routes.methodsFor(request.url);
    if (allowed.length === 0) return sendProblem(request, reply, new PrefixdError("not_found", "There is nothing at this path."));
    reply.header("allow", allowed.join(", "));
    return sendProblem(request, reply, new PrefixdError("method_not_allowed", `This path takes ${allowed.join(", ")}.`));
  });

  await fastify.register(multipart, { throwFileSizeLimit: false });
  await fastify.register(swagger, OPENAPI_OPTIONS as never);
  generateRoutes(fastify, parts);
  prefixRoutes(fastify, parts);
  adminRoutes(fastify, parts);
  usageRoutes(fastify, parts);
  modelRoutes(fastify, parts);
  healthRoutes(fastify, parts, state);
  await docsRoutes(fastify);
  return { fastify, state, routes: checkAccess() };
}

/** Requests that never reached the generation service still count as generate requests, by their error. */
function countRefusal(parts: AppParts, request: FastifyRequest, code: ErrorCode): void {
  if (request.routeOptions.config.generates && !request.admitted) parts.metrics.request(code);
}

/** Errors before routing, such as a path that is no URL: no hook has run. */
function frameworkError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  request.audit ??= {};
  reply.header("x-request-id", request.id);
  sendProblem(request, reply, error);
  request.log.info({ method: request.method, route: "unmatched", status: reply.statusCode, ...request.audit }, "request");
}

/** What is not HTTP, has too large headers or takes too long: Node's parser gives up, so the answer is written by hand. */
function clientErrorHandler(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy();
  const code: ErrorCode =
    error.code === "HPE_HEADER_OVERFLOW" ? "headers_too_large" : error.code === "ERR_HTTP_REQUEST_TIMEOUT" ? "request_timeout" : "invalid_request";
  const { status, title } = ERRORS[code];
  const body = JSON.stringify(toProblem(new PrefixdError(code, `${title}.`), "none"));
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: ${PROBLEM_TYPE}\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
