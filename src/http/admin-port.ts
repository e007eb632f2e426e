/** `--admin-port`: metrics and health for scrapers, routers and probes that send no key. */
import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import Fastify, { LogController, type FastifyBaseLogger } from "fastify";
import { isLoopback } from "../config.ts";
import { PrefixdError } from "../errors.ts";
import type { Logger } from "../observability/logging.ts";
import type { Metrics } from "../observability/metrics.ts";
import { checkHost, randomId } from "./access-log.ts";
import type { AppState, TypedApp } from "./app-parts.ts";
import { readinessOf, type Checks } from "./health/readiness.ts";
import { healthRoutes } from "./health/route.ts";
import { sendProblem } from "./problem.ts";
import { validatorCompiler } from "./validation.ts";

/** Milliseconds for a request to arrive, and of silence on a connection. */
const REQUEST_MS = 10_000;
const SILENCE_MS = 30_000;
const MAX_CONNECTIONS = 256;

export interface AdminPortOptions {
  readonly host: string;
  readonly port: number;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

/**
 * Answers GET and HEAD of `/metrics`, `/health/live`, `/health/ready` and `/health` (the same as ready), and nothing
 * else. Opened before the model is loaded, when it is alive but not ready; closed last.
 */
export class AdminPort {
  /** Such as `http://127.0.0.1:9464`. */
  readonly url: string;
  readonly #app: TypedApp;
  readonly #health: { checks: Checks; state: Readonly<AppState> };

  private constructor(app: TypedApp, health: { checks: Checks; state: Readonly<AppState> }, url: string) {
    this.#app = app;
    this.#health = health;
    this.url = url;
  }

  /** @throws the system's errors for the address */
  static async open({ host, port, metrics, logger }: AdminPortOptions): Promise<AdminPort> {
    const loading = (): never => {
      throw new PrefixdError("draining", "The model is being loaded.");
    };
    const health: { checks: Checks; state: Readonly<AppState> } = {
      checks: { model: loading },
      state: { phase: "serving" },
    };
    // Wider than pino's own type, so that the app accepts any logger.
    const loggerInstance: FastifyBaseLogger = logger;
    const app: TypedApp = Fastify({
      loggerInstance,
      logController: new LogController({ disableRequestLogging: true, requestIdLogLabel: "request_id" }),
      genReqId: randomId,
      requestIdHeader: false,
      requestTimeout: REQUEST_MS,
      connectionTimeout: SILENCE_MS,
      forceCloseConnections: true,
      http: { headersTimeout: REQUEST_MS, connectionsCheckingInterval: REQUEST_MS / 2 },
    }).withTypeProvider<TypeBoxTypeProvider>();
    app.server.maxConnections = MAX_CONNECTIONS;
    app.setValidatorCompiler(validatorCompiler);
    app.setSerializerCompiler(() => (data: unknown) => JSON.stringify(data));
    app.decorateRequest("audit");
    app.addHook("onRequest", async (request) => {
      request.audit = {};
      // On loopback only this machine's own programs are meant, not web pages that resolve to it.
      if (isLoopback(host)) checkHost(request);
    });
    app.setErrorHandler((error, request, reply) => sendProblem(request, reply, error));
    app.setNotFoundHandler((request, reply) =>
      sendProblem(
        request,
        reply,
        new PrefixdError("not_found", "This port has only /metrics, /health, /health/live and /health/ready."),
      ),
    );
    const parts = {
      metrics,
      get checks() {
        return health.checks;
      },
    };
    const state: Readonly<AppState> = {
      get phase() {
        return health.state.phase;
      },
    };
    healthRoutes(app, parts, state);
    app.get("/health", async (_request, reply) => {
      const readiness = await readinessOf(health.checks, health.state);
      return reply.code(readiness.status === "ready" ? 200 : 503).send(readiness);
    });
    return new AdminPort(app, health, await app.listen({ host, port }));
  }

  /** The server listens: from now on it is ready as these say. */
  loaded(checks: Checks, state: Readonly<AppState>): void {
    this.#health.checks = checks;
    this.#health.state = state;
  }

  async close(): Promise<void> {
    await this.#app.close();
  }
}
