/** Usage over all users, for billing. */
import { Readable } from "node:stream";
import type { FastifyReply } from "fastify";
import { PrefixdError } from "../../errors.ts";
import type { UsageDays, UserStore } from "../../users/store.ts";
import type { UsageRow } from "../../users/types.ts";
import { usageRowName } from "../../users/usage-counts.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import { DEFAULT_LIMIT, inBatches, pageOf } from "../page.ts";
import { csvLine } from "./csv.ts";
import { byMonth, firstDayOf } from "./months.ts";
import { checkDays, sumsDocument } from "./route.ts";
import {
  ALL_USAGE_EXAMPLE,
  AllUsageDocument,
  AllUsageQuery,
  type AllUsageQuery as Query,
  type AllUsageRowDocument,
} from "./schema.ts";

/** Users whose rows are read at the same time. */
const USERS_AT_A_TIME = 16;
/** Rows of a user per call to the store. */
const ROWS_AT_A_TIME = 100;
const SUMS = [
  "requests",
  "prefix_tokens",
  "prompt_tokens",
  "completion_tokens",
  "queue_seconds",
  "run_seconds",
] as const;
const CSV = "text/csv";

type Period = NonNullable<Query["by"]>;

export function allUsageRoutes(app: TypedApp, parts: AppParts): void {
  app.get(
    "/admin/usage",
    {
      config: { access: "admin", audit: "usage.read" },
      schema: {
        operationId: "getAllUsage",
        tags: ["users"],
        summary: "Usage of all users, by user, day or month, and prefix",
        description:
          "In ascending order of user, day or month, and prefix, the bare base model first. With `by=month` a month that `from` or `to` cuts has the days between them only. Includes users that were removed with `keep_usage`, and `admin`. With `Accept: text/csv` all rows come in one answer; if an error ends it early, the connection is closed before the end.",
        querystring: AllUsageQuery,
        response: {
          200: {
            ...json("One page, or all rows as CSV", AllUsageDocument, { example: ALL_USAGE_EXAMPLE }),
            content: {
              "application/json": { schema: AllUsageDocument, example: ALL_USAGE_EXAMPLE },
              [CSV]: {
                schema: { type: "string" },
                example: `${header("day")}ann,2026-01-31,intent,3,30,54,60,0.004,1.25\r\n`,
              },
            },
          },
          ...problems("unauthorized", "forbidden", "unknown_field", "invalid_parameter", "store_unavailable"),
        },
      },
    },
    async (request, reply) => {
      const { limit, after, by = "day", ...days } = request.query;
      checkDays(days);
      checkPosition(after, by);
      const { signal } = abortOnDisconnect(reply);
      const rows = allUsage(parts.users, { days, by, after, signal });
      reply.header("vary", "accept");
      if (!wantsCsv(request.headers.accept))
        return pageOf(rows, limit ?? DEFAULT_LIMIT, (row) => rowDocument(row, by), positionOf).then(
          ({ page, next }) => ({
            usage: page,
            next,
          }),
        );
      if (limit !== undefined)
        throw new PrefixdError("invalid_parameter", "limit is for pages of JSON; CSV has all rows.", {
          field: "limit",
        });
      // The first row before the header, so that a store which is away is an error, not an empty table.
      const first = await rows.next();
      return sendCsv(reply, csvLines(first, rows, by));
    },
  );
}

function sendCsv(reply: FastifyReply, lines: AsyncIterable<string>): FastifyReply {
  return reply.type(`${CSV}; charset=utf-8; header=present`).send(Readable.from(lines));
}

/** Rows after a position. Each call to the store is bounded; others take their turns in between. */
async function* allUsage(
  users: Pick<UserStore, "usage" | "usageUsers">,
  { days, by, after, signal }: { days: UsageDays; by: Period; after: string | undefined; signal: AbortSignal },
): AsyncGenerator<UsageRow, void> {
  const rowsByDay = (user: string, range: UsageDays, from?: string): AsyncGenerator<UsageRow, void> =>
    inBatches((batch) => users.usage(user, { ...range, ...batch }), from, ROWS_AT_A_TIME, usageRowName);
  const rowsOf = (user: string, from?: string): AsyncGenerator<UsageRow, void> => {
    if (by === "day") return rowsByDay(user, days, from);
    // The month of the last row is summed again.
    const first = from === undefined ? "" : firstDayOf(from);
    return byMonth(rowsByDay(user, first > (days.from ?? "") ? { ...days, from: first } : days), from);
  };
  const slash = after?.indexOf("/") ?? 0;
  const [user, row] = after === undefined ? [undefined, undefined] : [after.slice(0, slash), after.slice(slash + 1)];
  if (user !== undefined) yield* rowsOf(user, row);
  for (let last = user; ; ) {
    const ids = await users.usageUsers({ limit: USERS_AT_A_TIME, ...(last === undefined ? {} : { after: last }) });
    // The first rows of all, since most have few.
    const begun = ids.map((id) => rowsOf(id));
    const firsts = await Promise.all(begun.map((rows) => rows.next()));
    for (const [i, first] of firsts.entries()) {
      if (signal.aborted) return;
      if (first.done === true) continue;
      yield first.value;
      yield* begun[i]!;
    }
    if (ids.length < USERS_AT_A_TIME) return;
    last = ids.at(-1);
  }
}

const positionOf = (row: UsageRow): string => `${row.user}/${usageRowName(row)}`;

/** @throws PrefixdError invalid_parameter */
function checkPosition(after: string | undefined, by: Period): void {
  if (after !== undefined && /^[^/]*\/\d{4}-\d{2}\//.test(after) !== (by === "month"))
    throw new PrefixdError("invalid_parameter", `after is not a row by ${by}: take next of a page with the same by.`, {
      field: "after",
    });
}

function rowDocument(row: UsageRow, by: Period): AllUsageRowDocument {
  return { user: row.user, [by]: row.day, prefix: row.prefix, ...sumsDocument(row) };
}

/** Whether the client names CSV, with any quality but none. */
function wantsCsv(accept = ""): boolean {
  return accept
    .toLowerCase()
    .split(",")
    .some((range) => /^\s*text\/csv\s*(;|$)/.test(range) && !/;\s*q=0(\.0*)?\s*(;|$)/.test(range));
}

function header(by: Period): string {
  return csvLine(["user", by, "prefix", ...SUMS]);
}

async function* csvLines(
  first: IteratorResult<UsageRow, void>,
  rows: AsyncGenerator<UsageRow, void>,
  by: Period,
): AsyncGenerator<string> {
  yield header(by);
  if (first.done === true) return;
  yield csvLineOf(first.value);
  for await (const row of rows) yield csvLineOf(row);
}

function csvLineOf(row: UsageRow): string {
  const sums = sumsDocument(row);
  return csvLine([row.user, row.day, row.prefix, ...SUMS.map((name) => sums[name])]);
}
