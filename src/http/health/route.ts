import { PrefixdError } from "../../errors.ts";
import type { AppParts, AppState, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { Liveness, Readiness } from "./schema.ts";

const CHECK_MS = 2_000;

export function healthRoutes(app: TypedApp, parts: AppParts, state: Readonly<AppState>): void {
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
      const checks: Record<string, string> = state.phase !== "serving" ? { server: "shutting down" } : {};
      await Promise.all(
        Object.entries(parts.checks).map(async ([name, check]) => (checks[name] = await outcomeOf(check))),
      );
      const ready = Object.values(checks).every((outcome) => outcome === "ok");
      reply.code(ready ? 200 : 503);
      return { status: ready ? ("ready" as const) : ("unavailable" as const), checks };
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

/** Our own errors' details are for clients; others may reveal too much. */
async function outcomeOf(check: () => void | Promise<void>): Promise<string> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<string>((resolve) => {
    timer = setTimeout(() => resolve(`no answer within ${CHECK_MS / 1000} s`), CHECK_MS);
  });
  try {
    return await Promise.race([Promise.resolve(check()).then(() => "ok"), late]);
  } catch (error) {
    return error instanceof PrefixdError ? error.message : "failed";
  } finally {
    clearTimeout(timer);
  }
}
