import type { InjectOptions } from "fastify";
import t from "tap";
import { keyLabel } from "../../../src/users/api-key.ts";
import { usageRow } from "../../contract/user-store.ts";
import { ADMIN_KEY, buildTestApp, until, type TestApp } from "../../support/app.ts";

type Send = (
  method: string,
  url: string,
  payload?: unknown,
  key?: string,
) => Promise<Awaited<ReturnType<TestApp["fastify"]["inject"]>>>;

async function admin(t: Parameters<typeof buildTestApp>[0]): Promise<TestApp & { send: Send }> {
  const app = await buildTestApp(t, { keyed: true });
  const send: Send = (method, url, payload, key = ADMIN_KEY) =>
    app.fastify.inject({
      method,
      url,
      headers: { authorization: `Bearer ${key}` },
      ...(payload === undefined ? {} : { payload }),
    } as InjectOptions);
  return { ...app, send };
}

t.test("a user's life", async (t) => {
  const { send, users, registry, audits } = await admin(t);
  const created = await send("POST", "/admin/users", { id: "ann", limits: { max_prefixes: 2 } });
  t.equal(created.statusCode, 201);
  t.match(created.json(), { id: "ann", weight: 1, limits: { max_prefixes: 2, max_running: null } });
  t.match((await send("POST", "/admin/users", { id: "ann" })).json(), { code: "user_exists", status: 409 });
  t.match((await send("PATCH", "/admin/users/ann", { weight: 0.5, limits: { max_queued: 3 } })).json(), {
    weight: 0.5,
    limits: { max_prefixes: 2, max_queued: 3 },
  });

  const keyAnswer = await send("POST", "/admin/users/ann/keys");
  t.equal(keyAnswer.statusCode, 201);
  t.equal(keyAnswer.headers["cache-control"], "no-store");
  const { key_id, key } = keyAnswer.json<{ key_id: string; key: string }>();
  t.match((await send("PUT", "/prefixes/a", { text: "aa" }, key)).statusCode, 201);
  const second = (await send("POST", "/admin/users/ann/keys", { expires_at: "2999-01-01T00:00:00+01:00" })).json<{
    key: string;
    expires_at: string;
  }>();
  t.equal(second.expires_at, "2998-12-31T23:00:00.000Z");
  t.equal((await send("DELETE", `/admin/users/ann/keys/${key_id}`)).statusCode, 204);
  t.equal((await send("GET", "/prefixes", undefined, key)).statusCode, 401);
  t.equal((await send("GET", "/prefixes", undefined, second.key)).statusCode, 200, "rotation: the second goes on");
  t.match((await send("DELETE", `/admin/users/ann/keys/${key_id}`)).json(), { code: "key_not_found", status: 404 });

  await users.addUsage([
    usageRow("ann", "a", new Date().toISOString().slice(0, 10)),
    usageRow("ann", "a", "2001-01-01"),
  ]);
  const detail = await send("GET", "/admin/users/ann");
  t.match(detail.json(), {
    id: "ann",
    keys: [{ key_id: second.key.slice(4, 20) }],
    prefixes: { count: 1, bytes: 128 },
  });
  t.match(detail.json(), { usage: { requests: 1, prompt_tokens: 3 } }, "of the last 31 days");
  t.notMatch(detail.body, /hash|pfx_/);
  t.match((await send("GET", "/usage?from=2001-01-01&to=2001-01-01", undefined, second.key)).json(), {
    user: "ann",
    totals: { requests: 1 },
    usage: [{ prefix: "a", requests: 1, prompt_tokens: 3 }],
    next: null,
  });
  t.match((await send("GET", "/usage?from=yesterday", undefined, second.key)).json(), { code: "invalid_parameter" });

  const removed = await send("DELETE", "/admin/users/ann");
  t.match(removed.json(), { user: "ann", removed: { prefixes: 1, keys: 1, bytes: 128 }, completed_at: String });
  t.equal((await send("GET", "/prefixes", undefined, second.key)).statusCode, 401);
  t.equal(registry.entries.size, 0);
  for (const [method, url] of [
    ["GET", "/admin/users/ann"],
    ["DELETE", "/admin/users/ann"],
    ["PATCH", "/admin/users/ann"],
    ["POST", "/admin/users/ann/keys"],
  ] as const) {
    t.match(
      (await send(method, url, method === "PATCH" ? { weight: 1 } : undefined)).json(),
      { code: "user_not_found", status: 404 },
      `${method} ${url}`,
    );
  }
  await until(() => audits.length >= 15);
  t.match(audits[0], {
    action: "user.create",
    outcome: "ok",
    user: "admin",
    key_id: keyLabel(ADMIN_KEY),
    target: "ann",
    request_id: String,
  });
  t.ok(audits.some((entry) => entry.action === "user.create" && entry.outcome === "user_exists"));
  t.ok(
    audits.some(
      (entry) =>
        entry.action === "prefix.register" &&
        entry.user === "ann" &&
        entry.key_id === key_id &&
        entry.target === "ann/a" &&
        /^[0-9a-f]{64}$/.test(entry.digest ?? ""),
    ),
  );
  t.ok(
    audits.some((entry) => entry.action === "authenticate" && entry.outcome === "unauthorized" && entry.user === null),
  );
  t.ok(audits.some((entry) => entry.action === "key.delete" && entry.target === `ann/${key_id}`));
});

t.test("users come in pages", async (t) => {
  const { send } = await admin(t);
  for (const id of ["c", "a", "b"]) await send("POST", "/admin/users", { id });
  t.match((await send("GET", "/admin/users?limit=2")).json(), { users: [{ id: "a" }, { id: "b" }], next: "b" });
  t.match((await send("GET", "/admin/users?limit=2&after=b")).json(), { users: [{ id: "c" }], next: null });
});

t.test("quotas refuse one prefix too many, and bytes too many", async (t) => {
  const { send } = await admin(t);
  await send("POST", "/admin/users", { id: "ann", limits: { max_prefixes: 2, max_prefix_bytes: 256 } });
  const { key } = (await send("POST", "/admin/users/ann/keys", {})).json<{ key: string }>();
  const put = async (id: string, text: string): Promise<unknown> =>
    (await send("PUT", `/prefixes/${id}`, { text }, key)).json();
  t.match(await put("a", "aa"), { bytes: 128 });
  t.match(await put("b", "bbb"), { code: "quota_exceeded", status: 403, detail: /256 bytes/ });
  t.match(await put("b", "bb"), { bytes: 128 });
  t.match(await put("c", "c"), { code: "quota_exceeded", detail: /2 prefixes/ });
  t.match(await put("a", "c"), { bytes: 64 });
});

t.test("bad input gets a clear 4xx", async (t) => {
  const { send } = await admin(t);
  await send("POST", "/admin/users", { id: "ann" });
  const cases: [string, string, unknown, string][] = [
    ...["", "admin", "local", "Admin", "../x", "a/b", "-a", ".", "é", "a b", "x".repeat(65), "a\0", "{a}"].map(
      (id): [string, string, unknown, string] => ["POST", "/admin/users", { id }, "invalid_user_id"],
    ),
    ["POST", "/admin/users", {}, "invalid_request"],
    ["POST", "/admin/users", { id: 7 }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", role: "admin" }, "unknown_field"],
    ["POST", "/admin/users", { id: "b", weight: 0 }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", weight: -1 }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", weight: "1" }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", weight: 1e9 }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", limits: { max_prefixes: -1 } }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", limits: { max_prefixes: 1.5 } }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", limits: { max_prefixes: 2 ** 60 } }, "invalid_parameter"],
    ["POST", "/admin/users", { id: "b", limits: { max_prefixs: 1 } }, "unknown_field"],
    ["PATCH", "/admin/users/ann", {}, "invalid_request"],
    ["PATCH", "/admin/users/ann", { id: "bob" }, "unknown_field"],
    ["PATCH", "/admin/users/..%2Fann", { weight: 1 }, "invalid_user_id"],
    ["DELETE", "/admin/users/local", undefined, "invalid_user_id"],
    ["DELETE", "/admin/users/ann?keep_usage=maybe", undefined, "invalid_parameter"],
    ["POST", "/admin/users/ann/keys", { expires_at: "tomorrow" }, "invalid_parameter"],
    ["POST", "/admin/users/ann/keys", { expires_at: "2030-01-01" }, "invalid_parameter"],
    ["POST", "/admin/users/ann/keys", { expires_at: "2030-13-41T00:00:00Z" }, "invalid_parameter"],
    ["POST", "/admin/users/ann/keys", { expires_at: "2020-01-01T00:00:00Z" }, "invalid_parameter"],
    ["POST", "/admin/users/ann/keys", { ttl: 3 }, "unknown_field"],
    ["DELETE", "/admin/users/ann/keys/..", undefined, "not_found"],
    ["DELETE", "/admin/users/ann/keys/nonsense", undefined, "key_not_found"],
    ["GET", "/admin/users?limit=0", undefined, "invalid_parameter"],
    ["GET", `/admin/users?after=${"a".repeat(65)}`, undefined, "invalid_parameter"],
    ["GET", "/admin/users/ann/usage?limit=1001", undefined, "invalid_parameter"],
    ["GET", "/admin/users/ann/usage?after=2026-01-01", undefined, "invalid_parameter"],
    ["GET", `/admin/users/ann/usage?after=2026-01-01/=${"a".repeat(300)}`, undefined, "invalid_parameter"],
    ["GET", "/admin/users/nobody/usage", undefined, "user_not_found"],
    ["GET", "/usage?limit=1e3", undefined, "invalid_parameter"],
    ["GET", "/usage?after=2026-01-01%2F%3D%00", undefined, "invalid_parameter"],
    ["GET", "/usage?cursor=x", undefined, "unknown_field"],
  ];
  for (const [method, url, payload, code] of cases) {
    const answer = await send(method, url, payload);
    t.match(answer.json(), { code }, `${method} ${url} ${JSON.stringify(payload)}`);
    t.ok(answer.statusCode >= 400 && answer.statusCode < 500);
  }
});

t.test("a user has at most 100 keys", async (t) => {
  const { send } = await admin(t);
  await send("POST", "/admin/users", { id: "ann" });
  for (let i = 0; i < 100; i++) t.equal((await send("POST", "/admin/users/ann/keys")).statusCode, 201);
  t.match((await send("POST", "/admin/users/ann/keys")).json(), { code: "too_many_keys", status: 409 });
  t.equal((await send("GET", "/admin/users/ann")).json<{ keys: unknown[] }>().keys.length, 100);
});

t.test("usage comes in pages, each with the totals of all", async (t) => {
  const { send, users } = await admin(t);
  await send("POST", "/admin/users", { id: "ann" });
  const { key } = (await send("POST", "/admin/users/ann/keys")).json<{ key: string }>();
  const day = "2026-01-31";
  const prefixes = [null, ...Array.from({ length: 1499 }, (_, i) => `p-${i}`)];
  await users.addUsage([
    ...prefixes.map((prefix) => usageRow("ann", prefix, day)),
    usageRow("ann", null, "2026-02-01"),
  ]);
  interface Page {
    readonly totals: { readonly requests: number; readonly queue_seconds: number };
    readonly usage: readonly { readonly prefix: string | null }[];
    readonly next: string | null;
  }
  for (const [path, sender] of [
    ["/usage", key],
    ["/admin/users/ann/usage", ADMIN_KEY],
  ] as const) {
    const pages: Page[] = [];
    for (let next: string | null = ""; next !== null; next = pages.at(-1)!.next) {
      const query = new URLSearchParams({ to: day, limit: "700", ...(next === "" ? {} : { after: next }) });
      pages.push((await send("GET", `${path}?${query.toString()}`, undefined, sender)).json());
    }
    t.same(
      pages.map(({ usage }) => usage.length),
      [700, 700, 100],
      path,
    );
    for (const { totals } of pages) t.match(totals, { requests: 1500, queue_seconds: 750 });
    const told = pages.flatMap(({ usage }) => usage.map(({ prefix }) => prefix));
    t.equal(told[0], null, "the bare base model first");
    t.same(new Set(told), new Set(prefixes));
    const byDefault = (await send("GET", path, undefined, sender)).json<Page>();
    t.match(byDefault, { usage: { length: 100 }, totals: { requests: 1501 } });
  }
});

t.test("the app is not built with a route that declares no access", async (t) => {
  const { default: Fastify } = await import("fastify");
  const { guardAccess } = await import("../../../src/http/access.ts");
  const { createKeylessAuthenticator } = await import("../../../src/users/authenticator.ts");
  const app = Fastify();
  const check = guardAccess(app, createKeylessAuthenticator());
  app.get("/open", { config: { access: "public" } }, async () => "");
  check();
  app.get("/forgotten", async () => "");
  t.throws(check, /routes without config\.access: (GET|HEAD) \/forgotten/);
});
