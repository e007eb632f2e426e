/** `GET /admin/usage`: all users' usage, as pages and as CSV. */
import t from "tap";
import { PrefixdError } from "../../../src/errors.ts";
import { csvLine } from "../../../src/http/usage/csv.ts";
import { usageRow } from "../../contract/user-store.ts";
import { ADMIN_KEY, buildTestApp } from "../../support/app.ts";

interface Row {
  readonly user: string;
  readonly day: string;
  readonly prefix: string | null;
}

t.test("all users' rows, in pages and as CSV", async (t) => {
  const { fastify, users, audits } = await buildTestApp(t, { keyed: true });
  const get = (query = "", headers: Record<string, string> = {}) =>
    fastify.inject({ url: `/admin/usage${query}`, headers: { authorization: `Bearer ${ADMIN_KEY}`, ...headers } });
  t.same((await get()).json(), { usage: [], next: null });
  t.equal((await get("", { accept: "text/csv" })).body.split("\r\n").length, 2, "a header");
  const ids = Array.from({ length: 40 }, (_, i) => `user-${String(i).padStart(2, "0")}`);
  const days = ["2025-12-31", "2026-01-01", "2026-02-28"];
  await users.addUsage([
    ...ids.flatMap((id) => days.flatMap((day) => [usageRow(id, null, day), usageRow(id, "p", day, 2)])),
    ...Array.from({ length: 250 }, (_, i) => usageRow("admin", `p${i}`, "2026-01-01")),
  ]);
  const names = (rows: readonly Row[]): string[] => rows.map(({ user, day, prefix }) => `${user} ${day} ${prefix}`);
  const expected = names(
    [...users.rows]
      .filter(({ day }) => day >= "2026-01-01")
      .sort((a, b) => {
        const [one, two] = [a, b].map(
          ({ user, day, prefix }) => `${user}/${day}/${prefix === null ? "" : `=${prefix}`}`,
        );
        return one! < two! ? -1 : 1;
      }),
  );
  for (const limit of [7, 100, 1000]) {
    const paged: string[] = [];
    for (let next: string | null = ""; next !== null; ) {
      const after: string = next === "" ? "" : `&after=${encodeURIComponent(next)}`;
      const page = (await get(`?from=2026-01-01&limit=${limit}${after}`)).json<{ usage: Row[]; next: string | null }>();
      t.ok(page.usage.length <= limit);
      paged.push(...names(page.usage));
      next = page.next;
    }
    t.same(paged, expected, `pages of ${limit}`);
  }
  const csv = await get("?from=2026-01-01", { accept: "text/html;q=0.5, text/csv" });
  t.equal(csv.headers["content-type"], "text/csv; charset=utf-8; header=present");
  const [head, ...lines] = csv.body.trimEnd().split("\r\n");
  t.equal(head, "user,day,prefix,requests,prefix_tokens,prompt_tokens,completion_tokens,queue_seconds,run_seconds");
  t.equal(lines.length, expected.length);
  t.ok(lines.includes("user-39,2026-02-28,p,2,4,6,8,1,0.000002"));
  t.ok(lines.includes("user-00,2026-01-01,,1,2,3,4,0.5,0.000001"));
  t.match((await get("", { accept: "text/csv;q=0" })).headers["content-type"], /json/);
  t.match(audits.at(-1), { action: "usage.read", outcome: "ok", user: "admin" });
});

t.test("by month: sums of a user's days, in pages and as CSV", async (t) => {
  const { fastify, users } = await buildTestApp(t, { keyed: true });
  const get = (query: string, headers: Record<string, string> = {}) =>
    fastify.inject({
      url: `/admin/usage?by=month${query}`,
      headers: { authorization: `Bearer ${ADMIN_KEY}`, ...headers },
    });
  // "p-x" sorts before "p/..." would: names are compared as stores do.
  const days = ["2025-12-31", "2026-01-01", "2026-01-02", "2026-01-31", "2026-02-01"];
  const prefixes = [null, "p", "p-x", "p0"];
  await users.addUsage(
    ["ann", "bob"].flatMap((id) => days.flatMap((day) => prefixes.map((p) => usageRow(id, p, day)))),
  );
  await users.addUsage(Array.from({ length: 230 }, (_, i) => usageRow("bob", `q${i}`, "2026-01-15")));
  interface MonthRow {
    readonly user: string;
    readonly month: string;
    readonly prefix: string | null;
    readonly requests: number;
    readonly run_seconds: number;
  }
  const all: MonthRow[] = (await get("&limit=1000")).json<{ usage: MonthRow[] }>().usage;
  t.equal(all.length, 2 * 3 * 4 + 230);
  t.match(all[4], { user: "ann", month: "2026-01", prefix: null, requests: 3, run_seconds: 0.000003 });
  t.notOk("day" in all[4]!);
  const keys = all.map(({ user, month, prefix }) => `${user}/${month}/${prefix === null ? "" : `=${prefix}`}`);
  t.same(keys, [...keys].sort());
  for (const limit of [1, 3, 100]) {
    const paged: MonthRow[] = [];
    for (let after: string | null = ""; after !== null; ) {
      const from: string = after === "" ? "" : `&after=${encodeURIComponent(after)}`;
      const page: { usage: MonthRow[]; next: string | null } = (await get(`&limit=${limit}${from}`)).json();
      paged.push(...page.usage);
      after = page.next;
    }
    t.same(paged, all, `pages of ${limit}`);
  }
  const cut = (await get("&from=2026-01-02&to=2026-01-30&limit=9")).json<{ usage: MonthRow[] }>().usage;
  t.match(
    cut.slice(0, 4),
    prefixes.map((prefix) => ({ user: "ann", month: "2026-01", prefix, requests: 1 })),
  );
  const after = encodeURIComponent("ann/2026-01/=p-x");
  const rest = (await get(`&from=2026-01-02&after=${after}&limit=2`)).json<{ usage: MonthRow[] }>().usage;
  t.match(rest, [
    { month: "2026-01", prefix: "p0", requests: 2 },
    { month: "2026-02", prefix: null },
  ]);
  const [head, ...lines] = (await get("", { accept: "text/csv" })).body.trimEnd().split("\r\n");
  t.equal(head, "user,month,prefix,requests,prefix_tokens,prompt_tokens,completion_tokens,queue_seconds,run_seconds");
  t.equal(lines.length, all.length);
  t.equal(lines[4], "ann,2026-01,,3,6,9,12,1.5,0.000003");
});

t.test("bad input, and a store that fails", async (t) => {
  const { fastify, users } = await buildTestApp(t, { keyed: true });
  const get = async (query: string, accept = "application/json"): Promise<{ code: string; status: number }> =>
    (
      await fastify.inject({
        url: `/admin/usage${query}`,
        headers: { authorization: `Bearer ${ADMIN_KEY}`, accept },
      })
    ).json();
  for (const query of [
    "?from=2026-13-01",
    "?to=2026-02-30",
    "?from=2026-02-01&to=2026-01-31",
    "?from=yesterday",
    "?after=ann",
    "?after=ann/2026-01-01",
    "?limit=0",
    "?by=year",
    "?by=month&after=ann/2026-01-01/",
    "?by=day&after=ann/2026-01/",
    "?after=ann/2026-01/",
  ])
    t.match(await get(query), { status: 400, code: "invalid_parameter" }, query);
  t.match(await get("?limit=5", "text/csv"), { status: 400, code: "invalid_parameter" });
  t.match(await get("?user=ann"), { code: "unknown_field" });
  users.down = new PrefixdError("store_unavailable", "away", { retryAfter: 2 });
  for (const accept of ["application/json", "text/csv"])
    t.match(await get("", accept), { status: 503, code: "store_unavailable" }, accept);
});

t.test("CSV that no spreadsheet runs", async (t) => {
  t.equal(csvLine(["a", 1.5, null, 'say "hi"', "x,y", "two\nlines"]), 'a,1.5,,"say ""hi""","x,y","two\nlines"\r\n');
  for (const formula of ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
    t.match(csvLine([formula]), /^"?'/, JSON.stringify(formula));
  t.equal(csvLine([-1]), "-1\r\n", "a number is a number");
});
