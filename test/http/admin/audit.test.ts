/** What an audit line says of who did what from where, and what it changed. */
import type { InjectOptions } from "fastify";
import t, { type Test } from "tap";
import { createApiKey, keyLabel } from "../../../src/users/api-key.ts";
import { ADMIN_KEY, buildTestApp, type TestApp } from "../../support/app.ts";

type Send = (options: Omit<InjectOptions, "headers"> & { key?: string | null; headers?: object }) => Promise<unknown>;

async function keyed(t: Test, over: Parameters<typeof buildTestApp>[1] = {}): Promise<TestApp & { send: Send }> {
  const app = await buildTestApp(t, { keyed: true, ...over });
  const send: Send = async ({ key = ADMIN_KEY, headers = {}, ...options }) =>
    (
      await app.fastify.inject({
        ...options,
        headers: { ...headers, ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
      } as InjectOptions)
    ).json();
  return { ...app, send };
}

t.test("what was changed, before and after", async (t) => {
  const { send, audits } = await keyed(t);
  const admin = { user: "admin", key_id: keyLabel(ADMIN_KEY), address: "127.0.0.1", outcome: "ok" };
  const last = (): object => audits.at(-1) as object;
  const limits = { max_queued: 3 };
  await send({ method: "POST", url: "/admin/users", payload: { id: "ann", limits } });
  t.match(last(), {
    ...admin,
    action: "user.create",
    target: "ann",
    changes: { weight: { before: null, after: 1 }, "limits.max_queued": { before: null, after: 3 } },
  });
  await send({ method: "POST", url: "/admin/users", payload: { id: "bob" } });
  await send({ method: "PATCH", url: "/admin/users/ann", payload: { weight: 2, limits: { max_queued: null } } });
  t.match(last(), { ...admin, action: "user.patch", target: "ann" });
  t.same((last() as { changes: object }).changes, {
    weight: { before: 1, after: 2 },
    "limits.max_queued": { before: 3, after: null },
  });
  await send({ method: "PATCH", url: "/admin/users/ann", payload: { suspended: true } });
  t.same((last() as { changes: object }).changes, { suspended: { before: false, after: true } });
  await send({ method: "PATCH", url: "/admin/users/nobody", payload: { weight: 2 } });
  t.match(last(), { action: "user.patch", outcome: "user_not_found", changes: undefined });
  await send({ method: "PATCH", url: "/admin/users/ann", payload: { suspended: false } });
  const expires_at = "2999-01-01T00:00:00.000Z";
  const created = await send({ method: "POST", url: "/admin/users/ann/keys", payload: { expires_at } });
  const { key, key_id } = created as { key: string; key_id: string };
  t.match(last(), { target: `ann/${key_id}`, changes: { expires_at: { before: null, after: expires_at } } });
  await send({ key, method: "PUT", url: "/prefixes/p", payload: { text: "aa" } });
  await send({ key, method: "PATCH", url: "/prefixes/p", payload: { shared_with: ["bob"], visibility: "shared" } });
  t.match(last(), { action: "prefix.share", user: "ann", key_id, target: "ann/p" });
  t.same((last() as { changes: object }).changes, {
    visibility: { before: "private", after: "shared" },
    shared_with: { added: ["bob"], removed: [] },
  });
  await send({ key, method: "PATCH", url: "/prefixes/p", payload: { shared_with: [], readable_by: ["bob"] } });
  t.same((last() as { changes: object }).changes, {
    shared_with: { added: [], removed: ["bob"] },
    readable_by: { added: ["bob"], removed: [] },
  });
  t.notOk(JSON.stringify(audits).includes(key.slice(21)));
});

t.test("a refused key is named by its public part, or by a few digits of its digest", async (t) => {
  const { send, audits, logs } = await keyed(t);
  const unknown = createApiKey();
  const other = "another-key-that-is-as-long-as-admin-keys-are";
  for (const [key, key_id] of [
    [unknown.key, unknown.id],
    [other, /^sha256:[0-9a-f]{8}$/],
    [null, null],
  ] as const) {
    await send({ key, method: "GET", url: "/prefixes" });
    t.match(audits.at(-1), { action: "authenticate", outcome: "unauthorized", user: null, key_id });
  }
  for (const secret of [unknown.key.slice(21), other])
    t.notOk((logs.join("") + JSON.stringify(audits)).includes(secret));
});

t.test("a suspended user's keys are refused, and it is recorded whose", async (t) => {
  const { send, audits } = await keyed(t);
  await send({ method: "POST", url: "/admin/users", payload: { id: "ann" } });
  const { key, key_id } = (await send({ method: "POST", url: "/admin/users/ann/keys" })) as {
    key: string;
    key_id: string;
  };
  await send({ key, method: "PUT", url: "/prefixes/p", payload: { text: "aa" } });
  t.match(await send({ method: "PATCH", url: "/admin/users/ann", payload: { suspended: true } }), { suspended: true });
  for (const url of ["/prefixes", "/usage", "/nothing/here", "/model"])
    t.match(await send({ key, method: "GET", url }), { status: 403, code: "user_suspended" }, url);
  t.match(await send({ key, method: "POST", url: "/v1/completions", payload: { prompt: "a" } }), {
    error: { code: "user_suspended" },
  });
  t.match(audits.at(-1), { action: "authenticate", outcome: "user_suspended", key_id });
  t.match(await send({ method: "GET", url: "/admin/users/ann" }), { suspended: true, keys: { length: 1 } });
  await send({ method: "PATCH", url: "/admin/users/ann", payload: { suspended: false } });
  t.match(await send({ key, method: "GET", url: "/prefixes" }), { prefixes: { length: 1 } }, "nothing was deleted");
});

t.test("the client's address is that of the connection, or what a trusted proxy says", async (t) => {
  const address = async (
    trustedProxies: readonly string[],
    remoteAddress: string,
    forwarded?: string,
  ): Promise<string | null> => {
    const { send, audits } = await keyed(t, { trustedProxies });
    const headers = forwarded === undefined ? {} : { "x-forwarded-for": forwarded };
    await send({ method: "GET", url: "/admin/users", remoteAddress, headers });
    return audits.at(-1)!.address;
  };
  t.equal(await address([], "203.0.113.7"), "203.0.113.7");
  t.equal(await address([], "203.0.113.7", "198.51.100.1"), "203.0.113.7", "nobody is believed");
  t.equal(await address(["10.0.0.0/8"], "203.0.113.7", "198.51.100.1"), "203.0.113.7", "a stranger is not");
  t.equal(await address(["10.0.0.0/8"], "10.1.2.3", "198.51.100.1"), "198.51.100.1");
  t.equal(
    await address(["10.0.0.0/8"], "10.1.2.3", "1.2.3.4, 198.51.100.1, 10.9.9.9"),
    "198.51.100.1",
    "what a client put before the proxies' own entries is not",
  );
  t.equal(await address(["10.0.0.0/8"], "10.1.2.3", "<script>"), "10.1.2.3", "what is no address is not");
  t.equal(await address([], "::ffff:203.0.113.7"), "203.0.113.7");
  t.equal(await address(["fd00::/8"], "fd00::1", "2001:db8::5"), "2001:db8::5");
});
