import type { UsageRow, UsageSums } from "../../users/types.ts";
import type { UserStore } from "../../users/store.ts";
import { usageRowName } from "../../users/usage-counts.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { DEFAULT_LIMIT, inBatches, pageOf } from "../page.ts";
import { USAGE_EXAMPLE, UsageDocument, UsageQuery, type UsageRowDocument, type UsageSumsDocument } from "./schema.ts";

/** The caller's own usage. */
export function usageRoutes(app: TypedApp, parts: AppParts): void {
  app.get(
    "/usage",
    {
      config: { access: "user" },
      schema: {
        operationId: "getUsage",
        tags: ["users"],
        summary: "One's own usage, by day and prefix",
        description: "In ascending order of day, then of prefix, the bare base model first.",
        querystring: UsageQuery,
        response: {
          200: json("One page", UsageDocument, { example: USAGE_EXAMPLE }),
          ...problems("unauthorized", "unknown_field", "invalid_parameter", "store_unavailable"),
        },
      },
    },
    async (request) => usagePage(parts.users, request.principal.user, request.query),
  );
}

/** One page of a user's usage, with totals over all pages. */
export async function usagePage(
  users: Pick<UserStore, "usage" | "usageSums">,
  user: string,
  query: UsageQuery,
): Promise<UsageDocument> {
  const { limit = DEFAULT_LIMIT, after, ...days } = query;
  const rows = inBatches((batch) => users.usage(user, { ...days, ...batch }), after, limit, usageRowName);
  const [totals, { page, next }] = await Promise.all([
    users.usageSums(user, days),
    pageOf(rows, limit, rowDocument, usageRowName),
  ]);
  return { user, totals: sumsDocument(totals), usage: page, next };
}

function rowDocument(row: UsageRow): UsageRowDocument {
  return { day: row.day, prefix: row.prefix, ...sumsDocument(row) };
}

export function sumsDocument(sums: UsageSums): UsageSumsDocument {
  return {
    requests: sums.requests,
    prefix_tokens: sums.prefixTokens,
    prompt_tokens: sums.promptTokens,
    completion_tokens: sums.completionTokens,
    queue_seconds: sums.queueSeconds,
    run_seconds: sums.runSeconds,
  };
}
