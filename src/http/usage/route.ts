import { PrefixdError } from "../../errors.ts";
import type { UsageRow, UsageSums } from "../../users/types.ts";
import type { UsageDays, UserStore } from "../../users/store.ts";
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
  checkDays(days);
  const rows = inBatches((batch) => users.usage(user, { ...days, ...batch }), after, limit, usageRowName);
  const [totals, { page, next }] = await Promise.all([
    users.usageSums(user, days),
    pageOf(rows, limit, rowDocument, usageRowName),
  ]);
  return { user, totals: sumsDocument(totals), usage: page, next };
}

/** @throws PrefixdError invalid_parameter */
export function checkDays({ from, to }: UsageDays): void {
  for (const [field, day] of Object.entries({ from, to })) {
    const time = day === undefined ? 0 : Date.parse(`${day}T00:00:00Z`);
    // JavaScript takes the 31st of a month that has 30 days for the next month's first.
    if (day !== undefined && (Number.isNaN(time) || new Date(time).toISOString().slice(0, 10) !== day))
      throw new PrefixdError("invalid_parameter", `${field} must be a day that exists, such as 2026-01-31.`, { field });
  }
  if (from !== undefined && to !== undefined && from > to)
    throw new PrefixdError("invalid_parameter", "from must not be after to.", { field: "from" });
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
