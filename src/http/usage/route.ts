import type { UsageRow } from "../../users/types.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { UsageDocument, UsageQuery, type UsageRowDocument } from "../admin/schema.ts";

/** What one has used oneself. */
export function usageRoutes(app: TypedApp, parts: AppParts): void {
  app.get(
    "/usage",
    {
      config: { access: "user" },
      schema: {
        operationId: "getUsage",
        tags: ["users"],
        summary: "One's own usage, by day and prefix",
        querystring: UsageQuery,
        response: {
          200: json("The usage", UsageDocument),
          ...problems("unauthorized", "unknown_field", "invalid_parameter", "store_unavailable"),
        },
      },
    },
    async (request) => {
      const { user } = request.principal;
      return { user, usage: (await parts.users.usage(user, request.query)).map(usageDocument) };
    },
  );
}

export function usageDocument(row: UsageRow): UsageRowDocument {
  return {
    day: row.day,
    prefix: row.prefix,
    requests: row.requests,
    prefix_tokens: row.prefixTokens,
    prompt_tokens: row.promptTokens,
    completion_tokens: row.completionTokens,
    queue_seconds: row.queueSeconds,
    run_seconds: row.runSeconds,
  };
}
