import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { hashApiKey } from "../../src/users/api-key.ts";
import { buildTestApp } from "../support/app.ts";
import { keyed, type Caller } from "./keyed.ts";

type Row = readonly [
  payload: object | undefined,
  status: Partial<Record<Caller, number>> & { owner: number; other: number; admin: number },
];

const same = (status: number) => ({ owner: status, other: status, admin: status });
const adminOnly = (status: number) => ({ owner: 403, other: 403, admin: status });
const PUBLIC = (status: number) => ({ ...same(status), none: status, bad: status, revoked: status, expired: status });
const HARD = { text: "hello" };

/**
 * Every route of the API. `owner` is ann, whose private prefix `p` the ids name in full, and who has a training file and a
 * job; the rows of the pages follow below.
 */
const MATRIX: Readonly<Record<string, Row>> = {
  "POST /generate": [
    { prompt: "a", prefix_id: "ann/p" },
    { owner: 200, other: 404, admin: 404 },
  ],
  "POST /prefixes/:id/generate": [{ prompt: "a" }, { owner: 200, other: 404, admin: 404 }],
  "POST /v1/completions": [
    { prompt: "a", model: "ann/p" },
    { owner: 200, other: 404, admin: 404 },
  ],
  "POST /v1/chat/completions": [
    { messages: [{ role: "user", content: "a" }], model: "ann/p" },
    { owner: 200, other: 404, admin: 404 },
  ],
  "GET /v1/models": [undefined, same(200)],
  "HEAD /v1/models": [undefined, same(200)],
  "GET /v1/models/:model": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/models/:model": [undefined, { owner: 200, other: 404, admin: 404 }],
  "DELETE /v1/models/:model": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /v1/models/:user/:name": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/models/:user/:name": [undefined, { owner: 200, other: 404, admin: 404 }],
  "DELETE /v1/models/:user/:name": [undefined, { owner: 200, other: 404, admin: 404 }],
  "POST /v1/files": [{}, same(415)],
  "GET /v1/files": [undefined, same(200)],
  "HEAD /v1/files": [undefined, same(200)],
  "GET /v1/files/:file": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/files/:file": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /v1/files/:file/content": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/files/:file/content": [undefined, { owner: 200, other: 404, admin: 404 }],
  "DELETE /v1/files/:file": [undefined, { owner: 200, other: 404, admin: 404 }],
  "POST /v1/fine_tuning/jobs": [
    { model: "demo", training_file: "FILE" },
    { owner: 200, other: 404, admin: 404 },
  ],
  "GET /v1/fine_tuning/jobs": [undefined, same(200)],
  "HEAD /v1/fine_tuning/jobs": [undefined, same(200)],
  "GET /v1/fine_tuning/jobs/:job": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/fine_tuning/jobs/:job": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /v1/fine_tuning/jobs/:job/events": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/fine_tuning/jobs/:job/events": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /v1/fine_tuning/jobs/:job/checkpoints": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /v1/fine_tuning/jobs/:job/checkpoints": [undefined, { owner: 200, other: 404, admin: 404 }],
  "POST /v1/fine_tuning/jobs/:job/cancel": [undefined, { owner: 200, other: 404, admin: 404 }],
  "POST /tokenize": [{ prompt: "a" }, same(200)],
  "POST /detokenize": [{ tokens: [1] }, same(200)],
  "GET /tokenizer_info": [undefined, same(200)],
  "HEAD /tokenizer_info": [undefined, same(200)],
  "PUT /prefixes/:id": [HARD, { owner: 200, other: 404, admin: 404 }],
  "PUT /prefixes/:id/adapter": [undefined, { owner: 415, other: 404, admin: 404 }],
  "PUT /prefixes/:id/prompt": [HARD, { owner: 200, other: 404, admin: 404 }],
  "GET /prefixes": [undefined, same(200)],
  "HEAD /prefixes": [undefined, same(200)],
  "GET /prefixes/:id": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /prefixes/:id": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /prefixes/:id/adapter": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /prefixes/:id/adapter": [undefined, { owner: 200, other: 404, admin: 404 }],
  "GET /prefixes/:id/adapter/:file": [undefined, { owner: 404, other: 404, admin: 404 }],
  "HEAD /prefixes/:id/adapter/:file": [undefined, { owner: 404, other: 404, admin: 404 }],
  "GET /prefixes/:id/versions": [undefined, { owner: 200, other: 404, admin: 404 }],
  "HEAD /prefixes/:id/versions": [undefined, { owner: 200, other: 404, admin: 404 }],
  "POST /prefixes/:id/restore": [{ digest: "0".repeat(64) }, { owner: 404, other: 404, admin: 404 }],
  "PATCH /prefixes/:id": [{ visibility: "private" }, { owner: 200, other: 404, admin: 404 }],
  "DELETE /prefixes/:id": [undefined, { owner: 204, other: 404, admin: 404 }],
  "GET /usage": [undefined, same(200)],
  "HEAD /usage": [undefined, same(200)],
  "GET /model": [undefined, same(200)],
  "GET /model/embeddings": [undefined, same(200)],
  "HEAD /model": [undefined, same(200)],
  "HEAD /model/embeddings": [undefined, same(200)],
  "POST /admin/users": [{ id: "new" }, adminOnly(201)],
  "GET /admin/users": [undefined, adminOnly(200)],
  "HEAD /admin/users": [undefined, adminOnly(200)],
  "GET /admin/users/:user": [undefined, adminOnly(200)],
  "HEAD /admin/users/:user": [undefined, adminOnly(200)],
  "GET /admin/users/:user/usage": [undefined, adminOnly(200)],
  "HEAD /admin/users/:user/usage": [undefined, adminOnly(200)],
  "GET /admin/usage": [undefined, adminOnly(200)],
  "HEAD /admin/usage": [undefined, adminOnly(200)],
  "PATCH /admin/users/:user": [{ weight: 2 }, adminOnly(200)],
  "DELETE /admin/users/:user": [undefined, adminOnly(200)],
  "POST /admin/users/:user/keys": [{}, adminOnly(201)],
  "DELETE /admin/users/:user/keys/:key": [undefined, adminOnly(404)],
  "POST /admin/backup": [undefined, adminOnly(200)],
  "GET /admin/live": [undefined, adminOnly(200)],
  "GET /metrics": [undefined, adminOnly(200)],
  "HEAD /metrics": [undefined, adminOnly(200)],
  "GET /health/live": [undefined, PUBLIC(200)],
  "HEAD /health/live": [undefined, PUBLIC(200)],
  "GET /health/ready": [undefined, PUBLIC(200)],
  "HEAD /health/ready": [undefined, PUBLIC(200)],
  "GET /openapi.yaml": [undefined, PUBLIC(200)],
  "HEAD /openapi.yaml": [undefined, PUBLIC(200)],
  "GET /openapi.json": [undefined, PUBLIC(200)],
  "HEAD /openapi.json": [undefined, PUBLIC(200)],
  "GET /": [undefined, PUBLIC(302)],
  "HEAD /": [undefined, PUBLIC(302)],
  "GET /docs": [undefined, PUBLIC(200)],
};

t.test("every route, for every caller", async (t) => {
  const shared = { plain: await keyed(t), training: await keyed(t, { training: true }) };
  for (const [route, [payload, statuses]] of Object.entries(MATRIX)) {
    const [method = "", path = ""] = route.split(" ");
    const url = path
      .replace(":id", "ann%2Fp")
      .replace(":model", "ann%2Fp")
      .replace(":name", "p")
      .replace(":user", "ann")
      .replace(":key", "0123456789abcdef")
      .replace(":file", path.startsWith("/v1/") ? "FILE" : "adapter_config.json")
      .replace(":job", "JOB");
    for (const caller of ["none", "bad", "revoked", "expired", "other", "owner", "admin"] as const) {
      const expected = statuses[caller] ?? 401;
      // What changes something needs an app that nothing else has changed.
      const changes = method !== "GET" && method !== "HEAD" && expected < 400;
      const training = /^\/v1\/(files|fine_tuning)/.test(path);
      const { send, app, file, job } = changes ? await keyed(t, { training }) : shared[training ? "training" : "plain"];
      const withIds = (text: string): string => text.replace("FILE", file).replace("JOB", job);
      const body = payload === undefined ? undefined : (JSON.parse(withIds(JSON.stringify(payload))) as object);
      const answer = await send(caller, method, withIds(url), body);
      t.equal(answer.statusCode, expected, `${route} by ${caller}`);
      if (expected === 401) t.equal(answer.headers["www-authenticate"], "Bearer");
      if (changes) await app.fastify.close();
    }
  }
});

t.test("the matrix has a row for every route of the app", async (t) => {
  const { routes } = await buildTestApp(t);
  const pages = routes.filter(({ url }) => /^\/(docs|console)/.test(url));
  t.ok(pages.length > 0 && pages.every(({ access }) => access === "public"));
  const names = routes.filter((route) => !pages.includes(route)).map(({ method, url }) => `${method} ${url}`);
  t.same(
    names.sort(),
    Object.keys(MATRIX)
      .filter((route) => route !== "GET /docs")
      .sort(),
  );
});

t.test("another user's prefix and a missing one get the same answer", async (t) => {
  const { send } = await keyed(t);
  const requests: [string, (id: string) => string, object?][] = [
    ["GET", (id) => `/prefixes/${id}`],
    ["GET", (id) => `/prefixes/${id}/adapter`],
    ["GET", (id) => `/prefixes/${id}/adapter/adapter_config.json`],
    ["PUT", (id) => `/prefixes/${id}`, HARD],
    ["PATCH", (id) => `/prefixes/${id}`, { visibility: "shared" }],
    ["DELETE", (id) => `/prefixes/${id}`],
    ["GET", (id) => `/prefixes/${id}/versions`],
    ["POST", (id) => `/prefixes/${id}/restore`, { digest: "0".repeat(64) }],
    ["POST", (id) => `/prefixes/${id}/generate`, { prompt: "a" }],
    ["GET", (id) => `/v1/models/${id}`],
    ["DELETE", (id) => `/v1/models/${id}`],
  ];
  const fingerprint = (answer: Awaited<ReturnType<typeof send>>): unknown => {
    const id = String(answer.headers["x-request-id"]);
    return {
      status: answer.statusCode,
      headers: { ...answer.headers, date: "", "x-request-id": "" },
      body: answer.body.replace(id, "ID"),
    };
  };
  for (const [method, path, payload] of requests) {
    const [foreign, unknown, nobody] = await Promise.all(
      ["ann%2Fp", "ann%2Fq", "eve%2Fp"].map((id) => send("other", method, path(id), payload)),
    );
    t.equal(foreign!.statusCode, 404);
    t.same(fingerprint(foreign!), fingerprint(unknown!), `${method} ${path("ID")}`);
    t.same(fingerprint(foreign!), fingerprint(nobody!));
  }
});

t.test("another user's file or job and a missing one get the same answer, after the same look-ups", async (t) => {
  const { send, file, job } = await keyed(t, { training: true });
  const unknown = (id: string): string => id.slice(0, -12) + "0".repeat(12);
  for (const [method, path, id] of [
    ["GET", "/v1/files/ID", file],
    ["GET", "/v1/files/ID/content", file],
    ["DELETE", "/v1/files/ID", file],
    ["GET", "/v1/fine_tuning/jobs/ID", job],
    ["GET", "/v1/fine_tuning/jobs/ID/events", job],
    ["GET", "/v1/fine_tuning/jobs/ID/checkpoints", job],
    ["POST", "/v1/fine_tuning/jobs/ID/cancel", job],
  ] as const) {
    const [foreign, none] = await Promise.all(
      [id, unknown(id)].map((one) => send("other", method, path.replace("ID", one))),
    );
    t.equal(foreign!.statusCode, 404);
    t.equal(foreign!.body, none!.body, `${method} ${path}`);
  }
});

t.test("every bad key gets the same refusal, also on paths that do not exist", async (t) => {
  const { send } = await keyed(t);
  const bodies = new Set<string>();
  for (const url of ["/prefixes", "/nothing/here", "/prefixes/ann%2Fp"]) {
    for (const caller of ["none", "bad", "revoked", "expired"] as const) {
      const answer = await send(caller, "GET", url);
      bodies.add(answer.body.replace(String(answer.headers["x-request-id"]), "ID"));
    }
  }
  t.equal(bodies.size, 1);
});

t.test("no body is read before the key is accepted", async (t) => {
  const { send } = await keyed(t);
  t.equal((await send("none", "POST", "/generate", { prompt: "x".repeat(100_000) })).statusCode, 401);
  t.equal((await send("owner", "POST", "/generate", { prompt: "x".repeat(100_000) })).statusCode, 413);
});

t.test("no log line or audit entry has a key or its hash", async (t) => {
  const { app, keys, send } = await keyed(t);
  for (const caller of ["bad", "revoked", "expired", "owner", "admin"] as const) {
    await send(caller, "POST", "/generate", { prompt: "a secret prompt" });
    await send(caller, "DELETE", `/admin/users/ann/keys/${keys.owner}`);
    await send(caller, "GET", `/prefixes/${keys.owner}`);
  }
  const created = (await send("admin", "POST", "/admin/users/bob/keys", {})).json<{ key: string }>().key;
  await send("admin", "GET", "/admin/users/bob");
  await new Promise((resolve) => setTimeout(resolve, 20));
  const text = app.logs.join("") + JSON.stringify(app.audits);
  for (const key of [...Object.values(keys), created]) {
    if (key === null) continue;
    t.notOk(text.includes(key.slice(21)) || text.includes(hashApiKey(key)));
  }
  t.notMatch(text, /secret prompt/);
  t.match(text, /"user":"ann"/);
});

t.test("without keys there is only one local user", async (t) => {
  const { fastify } = await buildTestApp(t);
  for (const [method, url] of [
    ["GET", "/admin/users"],
    ["POST", "/admin/users"],
    ["DELETE", "/admin/users/ann"],
  ] as const) {
    t.match((await fastify.inject({ method, url })).json(), { code: "forbidden", detail: /--admin-key-file/ });
  }
  t.equal((await fastify.inject("/metrics")).statusCode, 200);
  t.match((await fastify.inject("/usage")).json(), { user: "local", usage: [] });
});

t.test("an unavailable store gives 503, not 401", async (t) => {
  const { app, send } = await keyed(t);
  app.users.down = new PrefixdError("store_unavailable", "away", { retryAfter: 2 });
  t.equal((await send("owner", "GET", "/prefixes")).statusCode, 503);
  t.equal((await send("admin", "GET", "/metrics")).statusCode, 200);
});
