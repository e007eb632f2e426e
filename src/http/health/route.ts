import type { AppParts, AppState, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { readinessOf } from "./readiness.ts";
import { Liveness, Readiness } from "./schema.ts";

/** `parts` and `state` are read at each request. */
export function healthRoutes(
  app: TypedApp,
  parts: Readonly<Pick<AppParts, "checks" | "metrics">>,
  state: Readonly<AppState>,
): void {
  const tags = ["operation"];

  app.get(
    "/health/live",
    {
      config: { access: "public" },
      logLevel: "warn",
      schema: {
        operationId: "live",
        tags,
        summary: "Is the process alive?",
        description: "For a supervisor that restarts what hangs. Says nothing of the store or the device.",
        response: { 200: json("Yes", Liveness, { example: { status: "ok" } }) },
      },
    },
    async () => ({ status: "ok" as const }),
  );

  app.get(
    "/health/ready",
    {
      config: { access: "public" },
      logLevel: "warn",
      schema: {
        operationId: "ready",
        tags,
        summary: "Can it serve requests now?",
        description: "For a load balancer. Not while the server drains, or cannot reach its store or its device.",
        response: {
          200: json("Yes", Readiness, { example: { status: "ready", checks: { model: "ok", store: "ok" } } }),
          503: json("No", Readiness, {
            example: { status: "unavailable", checks: { model: "ok", store: "no answer within 2 s" } },
          }),
        },
      },
    },
    async (_request, reply) => {
      const readiness = await readinessOf(parts.checks, state);
      reply.code(readiness.status === "ready" ? 200 : 503);
      return readiness;
    },
  );

  app.get(
    "/metrics",
    {
      config: { access: "admin" },
      logLevel: "warn",
      schema: {
        operationId: "metrics",
        tags,
        summary: "Metrics in Prometheus' format",
        description: "docs/reference/metrics.md lists them.",
        response: {
          200: {
            description: "See docs/reference/metrics.md",
            content: { "text/plain": { schema: { type: "string" } } },
          },
          ...problems("unauthorized", "forbidden"),
        },
      },
    },
    async (_request, reply) => reply.type(parts.metrics.contentType).send(await parts.metrics.render()),
  );
}
