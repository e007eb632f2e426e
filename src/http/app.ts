import type { Server } from "node:net";
import multipart from "@fastify/multipart";
import swagger from "@fastify/swagger";
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import Fastify, { LogController, type FastifyBaseLogger, type FastifyReply, type FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../errors.ts";
import { refuseForms } from "./body-refusals.ts";
import { guardAccess, type DeclaredRoute } from "./access.ts";
import type { AppParts, AppState, TypedApp } from "./app-parts.ts";
import { watchBodies } from "./connections/body-watch.ts";
import { guardConnections, refuseConnection, serverOptions } from "./connections/limits.ts";
import { parseJsonBodies } from "./json-body.ts";
import { closeRefused } from "./connections/half-close.ts";
import { OPENAPI_OPTIONS } from "./docs/openapi.ts";
import { escapedPath } from "./prefixes/id.ts";
import { sendProblem, toPrefixdError } from "./problem.ts";
import { originForm, refuseEncodedBodies } from "./connections/request-checks.ts";
import { requestId, trackRequests } from "./access-log.ts";
import { RouteIndex } from "./route-index.ts";
import { backupRoutes } from "./admin/backup-route.ts";
import { liveRoutes } from "./admin/live-route.ts";
import { adminRoutes } from "./admin/route.ts";
import { consoleRoutes } from "./console.ts";
import { docsRoutes } from "./docs/route.ts";
import { PromptReader } from "./generate/prompts.ts";
import { generateRoutes } from "./generate/route.ts";
import { GenerateServer } from "./generate/serve.ts";
import { healthRoutes } from "./health/route.ts";
import { modelRoutes } from "./model/route.ts";
import { prefixRoutes } from "./prefixes/route.ts";
import { tokenRoutes } from "./tokens/route.ts";
import { allUsageRoutes } from "./usage/all-route.ts";
import { usageRoutes } from "./usage/route.ts";
import { allowOrigins } from "./cors.ts";
import { chatRoutes } from "./v1/chat-route.ts";
import { completionsRoutes } from "./v1/completions-route.ts";
import { filesRoutes } from "./v1/files.ts";
import { fineTuningRoutes } from "./v1/fine-tuning.ts";
import { modelsRoutes } from "./v1/models-route.ts";
import { traceRequests } from "./tracing.ts";
import { Traffic } from "./connections/traffic.ts";
import { validatorCompiler } from "./validation.ts";

export interface App {
  readonly fastify: TypedApp;
  readonly state: AppState;
  readonly traffic: Traffic;
  readonly routes: readonly DeclaredRoute[];
  /** Servers at further addresses of the port. */
  readonly doors: Server[];
}

/** Builds the HTTP side: routes, one error handler, access log. Does not listen yet. */
export async function buildApp(parts: AppParts): Promise<App> {
  const state: AppState = { phase: "serving" };
  const traffic = new Traffic();
  const { clients, metrics } = parts;
  // Wider than pino's own type, so that the app accepts any logger.
  const logger: FastifyBaseLogger = parts.logger;
  const fastify: TypedApp = Fastify({
    loggerInstance: logger,
    logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "request_id" }),
    genReqId: (raw) => requestId(raw, parts.secrets),
    requestIdHeader: false,
    trustProxy: parts.trustedProxies.length === 0 ? false : [...parts.trustedProxies],
    rewriteUrl: originForm,
    bodyLimit: parts.limits.requestBody,
    requestTimeout: clients.requestMs,
    keepAliveTimeout: clients.keepAliveMs,
    http: serverOptions(clients),
    // During shutdown our own hook answers, with a problem body.
    return503OnClosing: false,
    routerOptions: { maxParamLength: 512 },
    frameworkErrors: (error: unknown, request: FastifyRequest, reply: FastifyReply) =>
      void frameworkError(error, request, reply),
    clientErrorHandler: (error, socket) => refuseConnection(error, socket, metrics),
  }).withTypeProvider<TypeBoxTypeProvider>();
  // For any Expect but 100-continue, Node would answer 417 with an empty body; RFC 9110, 10.1.1 allows ignoring unknown
  // expectations.
  fastify.server.on("checkExpectation", (request, response) => void fastify.server.emit("request", request, response));

  // Bodies are JSON or multipart. A browser may send text/plain across origins without preflight.
  fastify.removeContentTypeParser("text/plain");
  parseJsonBodies(fastify);
  fastify.setValidatorCompiler(validatorCompiler);
  // Our own code builds responses, so no filtering on output; a test checks them against the schemas.
  fastify.setSerializerCompiler(() => (data: unknown) => JSON.stringify(data));
  fastify.setErrorHandler((error, request, reply) => {
    countRefusal(parts, request, toPrefixdError(error).code);
    return sendProblem(request, reply, error);
  });
  traceRequests(fastify, parts.tracing ?? null);
  refuseEncodedBodies(fastify);
  refuseForms(fastify);
  const bodies = watchBodies(fastify, clients, metrics);
  closeRefused(fastify, bodies);
  parts.answers?.watch(fastify);
  trackRequests(fastify, { metrics, audit: parts.audit, keyed: parts.auth.keyed, state, traffic });
  guardConnections(fastify, clients, metrics, traffic);
  // Before keys are asked for: a browser's preflight has none.
  if (parts.origins.length > 0) await allowOrigins(fastify, parts.origins);
  const checkAccess = guardAccess(fastify, parts.auth);
  const routes = new RouteIndex(fastify);
  fastify.setNotFoundHandler((request, reply) => {
    const allowed = routes.methodsFor(request.url);
    if (allowed.length === 0) return sendProblem(request, reply, nothingAt(request.url));
    reply.header("allow", allowed.join(", "));
    return sendProblem(
      request,
      reply,
      new PrefixdError("method_not_allowed", `This path takes ${allowed.join(", ")}.`),
    );
  });

  await fastify.register(multipart, { throwFileSizeLimit: false });
  await fastify.register(swagger, OPENAPI_OPTIONS as never);
  const reader = new PromptReader(parts.tokenizer, parts.shape.positions);
  const server = new GenerateServer(parts);
  generateRoutes(fastify, parts, reader, server);
  completionsRoutes(fastify, parts, reader, server);
  chatRoutes(fastify, parts, reader, server);
  modelsRoutes(fastify, parts);
  filesRoutes(fastify, parts, bodies);
  fineTuningRoutes(fastify, parts, state);
  tokenRoutes(fastify, parts, reader);
  prefixRoutes(fastify, parts, reader, bodies);
  adminRoutes(fastify, parts);
  liveRoutes(fastify, parts, state);
  backupRoutes(fastify, parts);
  usageRoutes(fastify, parts);
  allUsageRoutes(fastify, parts);
  modelRoutes(fastify, parts);
  healthRoutes(fastify, parts, state);
  await docsRoutes(fastify);
  if (parts.console) await consoleRoutes(fastify);
  const declared = checkAccess();
  metrics.expectRoutes(declared);
  return { fastify, state, traffic, routes: declared, doors: [] };
}

function nothingAt(url: string): PrefixdError {
  const meant = escapedPath(url.split("?", 1)[0] ?? "");
  return new PrefixdError(
    "not_found",
    `There is nothing at this path.${meant === null ? "" : ` In a path the slash of a prefix's id is written %2F: ${meant}.`}`,
  );
}

/** Requests refused before the generation service still count as generate requests, by their error. */
function countRefusal(parts: AppParts, request: FastifyRequest, code: ErrorCode): void {
  if (request.routeOptions.config.generates && !request.admitted) parts.metrics.request(code);
}

/** Errors before routing, such as a path that is not a URL. No hook has run yet. */
function frameworkError(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  request.audit ??= {};
  reply.header("x-request-id", request.id);
  sendProblem(request, reply, error);
  request.log.info(
    { method: request.method, route: "unmatched", status: reply.statusCode, ...request.audit },
    "request",
  );
}
