import t from "tap";
import { Compile } from "typebox/compile";
import { ModelCard, ModelCards } from "../../../src/http/v1/models-schema.ts";
import { createApiKey } from "../../../src/users/api-key.ts";
import { NO_LIMITS } from "../../../src/users/types.ts";
import { buildTestApp, post, type TestApp } from "../../support/app.ts";

const HARD = { kind: "hard", ids: Int32Array.of(1, 2) } as const;

/** Sends requests as bob, who owns b and c; ann has p, which all may use, and q, which only ann may. */
async function asBob(
  t: Parameters<typeof buildTestApp>[0],
  over: Parameters<typeof buildTestApp>[1] = {},
): Promise<{
  app: TestApp;
  send: (method: "GET" | "DELETE", url: string) => Promise<{ status: number; body: unknown }>;
}> {
  const app = await buildTestApp(t, { keyed: true, ...over });
  const now = new Date().toISOString();
  const { id, key, hash } = createApiKey();
  await app.users.createUser({ id: "bob", weight: 1, limits: NO_LIMITS, createdAt: now, updatedAt: now });
  await app.users.putKey({ id, user: "bob", hash, createdAt: now, expiresAt: null });
  for (const [user, name] of [
    ["bob", "c"],
    ["bob", "b"],
    ["ann", "p"],
    ["ann", "q"],
  ] as const)
    await app.registry.register({ user, name }, HARD);
  await app.registry.patch({ user: "ann", name: "p" }, { visibility: "shared" });
  const send = async (method: "GET" | "DELETE", url: string): Promise<{ status: number; body: unknown }> => {
    const answer = await app.fastify.inject({ method, url, headers: { authorization: `Bearer ${key}` } });
    return { status: answer.statusCode, body: answer.json() };
  };
  return { app, send };
}

interface Page {
  readonly data: { readonly id: string }[];
  readonly has_more: boolean;
}
const idsOf = (body: unknown): string[] => (body as Page).data.map(({ id }) => id);

t.test("the list has the base model, one's own prefixes, then shared ones, in pages", async (t) => {
  const { send } = await asBob(t);
  const { status, body } = await send("GET", "/v1/models");
  t.equal(status, 200);
  t.same([...Compile(ModelCards).Errors(body)], []);
  t.same(idsOf(body), ["demo", "b", "c", "ann/p"]);
  t.match(body, {
    object: "list",
    data: [
      { id: "demo", object: "model", owned_by: "prefixd", root: "demo", parent: null, max_model_len: 64 },
      { id: "b", owned_by: "bob", root: "demo", parent: "demo", max_model_len: 62, created: Number },
      {},
      { id: "ann/p", owned_by: "ann", parent: "demo" },
    ],
    has_more: false,
  });
  const seen: string[] = [];
  for (let after = ""; ; ) {
    const page = (await send("GET", `/v1/models?limit=1${after}`)).body as Page;
    seen.push(...idsOf(page));
    if (!page.has_more) break;
    after = `&after=${encodeURIComponent(seen.at(-1)!)}`;
  }
  t.same(seen, ["demo", "b", "c", "ann/p"]);
  t.match(await send("GET", "/v1/models?page=1"), { status: 400, body: { error: { code: "unknown_field" } } });
});

t.test("a base model that is not served is not listed", async (t) => {
  const { send } = await asBob(t, { allowBaseModel: false });
  t.same(idsOf((await send("GET", "/v1/models")).body), ["b", "c", "ann/p"]);
  t.match(await send("GET", "/v1/models/demo"), { status: 403, body: { error: { code: "base_model_disabled" } } });
});

t.test("one model, its slash escaped or not; one that the user may not use does not exist", async (t) => {
  const { send } = await asBob(t);
  for (const path of ["b", "demo", "ann%2Fp", "ann/p", "bob/b"]) {
    const { status, body } = await send("GET", `/v1/models/${path}`);
    t.equal(status, 200, path);
    t.same([...Compile(ModelCard).Errors(body)], []);
  }
  t.match((await send("GET", "/v1/models/bob/b")).body, { id: "b" });
  for (const path of ["ann/q", "ann%2Fq", "nope", "eve/p"])
    t.match(await send("GET", `/v1/models/${path}`), {
      status: 404,
      body: { error: { code: "prefix_not_found", param: "model" } },
    });
});

t.test("deletion works as DELETE /prefixes: owner only, complete, and audited", async (t) => {
  const { app, send } = await asBob(t);
  t.same(await send("DELETE", "/v1/models/b"), { status: 200, body: { id: "b", object: "model", deleted: true } });
  t.match(app.audits.at(-1), { action: "prefix.remove", outcome: "ok", user: "bob", target: "bob/b" });
  t.match(await send("DELETE", "/v1/models/b"), { status: 404, body: { error: { code: "prefix_not_found" } } });
  for (const path of ["ann/p", "ann%2Fp", "demo"])
    t.match(await send("DELETE", `/v1/models/${path}`), { status: 403, body: { error: { code: "prefix_not_owned" } } });
  t.match(await send("DELETE", "/v1/models/ann/q"), { status: 404 });
  t.same(idsOf((await send("GET", "/v1/models")).body), ["demo", "c", "ann/p"]);
});

t.test("a prefix with the base's name is listed by its full id, which requests accept", async (t) => {
  const { app, send } = await asBob(t);
  await app.registry.register({ user: "bob", name: "demo" }, HARD);
  t.same(idsOf((await send("GET", "/v1/models")).body), ["demo", "b", "c", "bob/demo", "ann/p"]);
  t.match(await send("GET", "/v1/models/bob/demo"), { status: 200, body: { id: "bob/demo", max_model_len: 62 } });
  t.match(await send("GET", "/v1/models/demo"), { status: 400, body: { error: { code: "invalid_parameter" } } });
  const local = await buildTestApp(t);
  await local.registry.register({ user: "local", name: "demo" }, HARD);
  const answer = await local.fastify.inject(
    post("/v1/completions", { model: "local/demo", prompt: "a", max_tokens: 1 }),
  );
  t.match(answer.json(), { model: "local/demo", usage: { prefix_tokens: 2 } });
});
