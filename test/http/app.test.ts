import { readFileSync } from "node:fs";
import t from "tap";
import { Check } from "typebox/value";
import { parse } from "yaml";
import { ERRORS, PrefixdError } from "../../src/errors.ts";
import { documentationApp } from "../../src/http/docs/app.ts";
import { openapiDocument, openapiYaml } from "../../src/http/docs/openapi.ts";
import { FIELD_ALIASES, NOT_OFFERED } from "../../src/http/generate/foreign-fields.ts";
import { GenerateBody } from "../../src/http/generate/schema.ts";
import { ModelDocument } from "../../src/http/model/schema.ts";
import { ChatBody } from "../../src/http/v1/chat-schema.ts";
import { CompletionsBody } from "../../src/http/v1/completions-schema.ts";
import { nearest } from "../../src/http/validation.ts";
import { buildTestApp, post, until } from "../support/app.ts";
import { docsBlock, markdownTable, repositoryFile } from "../support/docs-block.ts";

t.test("paths and methods that do not exist", async (t) => {
  const { fastify } = await buildTestApp(t);
  t.match((await fastify.inject("/nothing")).json(), { status: 404, code: "not_found" });
  const wrong = await fastify.inject({ method: "DELETE", url: "/generate?x=1" });
  t.match(wrong.json(), { status: 405, code: "method_not_allowed" });
  t.equal(wrong.headers.allow, "POST");
  t.equal(
    (await fastify.inject({ method: "POST", url: "/prefixes/p" })).headers.allow,
    "DELETE, GET, HEAD, PATCH, PUT",
  );
  t.match((await fastify.inject("/docs/../../etc/passwd")).statusCode, 404);
});

t.test("bodies that are not JSON, too large, of another type, or poisoned", async (t) => {
  const { fastify } = await buildTestApp(t);
  const send = (payload: string, type = "application/json"): Promise<{ json(): unknown }> =>
    fastify.inject({ method: "POST", url: "/generate", payload, headers: { "content-type": type } });
  t.match((await send("{")).json(), { status: 400, code: "invalid_request" });
  t.match((await send("")).json(), { status: 400, code: "invalid_request" });
  t.match((await send("null")).json(), { status: 400, code: "invalid_request" });
  t.match((await send('{"prompt":"a","__proto__":{"x":1}}')).json(), { status: 400, code: "invalid_request" });
  t.match((await send('{"prompt":"a","constructor":{"prototype":{"x":1}}}')).json(), {
    status: 400,
    code: "invalid_request",
  });
  t.match((await send("[".repeat(60_000))).json(), { status: 400, code: "invalid_request" });
  t.match((await send(JSON.stringify({ prompt: "a".repeat(70_000) }))).json(), { status: 413, code: "body_too_large" });
  t.match((await send("prompt=a", "application/x-www-form-urlencoded")).json(), {
    status: 415,
    code: "unsupported_media_type",
  });
  t.match((await send('{"prompt":"a"}', "text/plain")).json(), { status: 415, code: "unsupported_media_type" });
  t.equal(({} as Record<string, unknown>)["x"], undefined);
});

t.test("harmless request ids are the client's", async (t) => {
  const { fastify, logs } = await buildTestApp(t);
  const id = async (given: string): Promise<unknown> =>
    (await fastify.inject({ url: "/nothing", headers: { "x-request-id": given } })).headers["x-request-id"];
  t.equal(await id("order-17:a.b_c"), "order-17:a.b_c");
  t.ok(logs.some((line) => line.includes('"request_id":"order-17:a.b_c"')));
  for (const bad of ["a b", "x".repeat(65), 'a"b', "<script>", ""])
    t.match(await id(bad), /^[0-9a-f]{16}$/, bad.slice(0, 10));
});

t.test("without keys, only this machine's hosts", async (t) => {
  const { fastify } = await buildTestApp(t);
  const status = async (host: string): Promise<number> =>
    (await fastify.inject({ url: "/health/live", headers: { host } })).statusCode;
  for (const host of ["localhost", "localhost:8080", "127.0.0.1:1", "[::1]:8080"])
    t.equal(await status(host), 200, host);
  for (const host of ["evil.example", "127.0.0.1.nip.io:8080", "10.0.0.1", "localhost.evil.example:80"])
    t.equal(await status(host), 421, host);
});

t.test("health reports alive, ready, and what is wrong", async (t) => {
  const { fastify, registry, state } = await buildTestApp(t, {});
  t.same((await fastify.inject("/health/live")).json(), { status: "ok" });
  const ready = await fastify.inject("/health/ready");
  t.same([ready.statusCode, ready.json()], [200, { status: "ready", checks: { model: "ok", store: "ok" } }]);
  registry.down = new PrefixdError("store_unavailable", "The prefix store is away.");
  const away = await fastify.inject("/health/ready");
  t.same(
    [away.statusCode, away.json()],
    [503, { status: "unavailable", checks: { model: "ok", store: "The prefix store is away." } }],
  );
  registry.down = null;
  state.phase = "leaving";
  t.match((await fastify.inject("/health/ready")).json(), {
    status: "unavailable",
    checks: { server: "shutting down" },
  });
  t.match((await fastify.inject("/prefixes")).statusCode, 200, "served still");
  state.phase = "refusing";
  t.match((await fastify.inject("/health/ready")).json(), {
    status: "unavailable",
    checks: { server: "shutting down" },
  });
  const refused = await fastify.inject(post("/generate", { prompt: "a" }));
  t.match([refused.statusCode, refused.headers.connection, refused.json()], [503, "close", { code: "draining" }]);
});

t.test("a check that hangs or fails in other ways reveals nothing", async (t) => {
  const { fastify } = await buildTestApp(t, {
    checks: { store: () => new Promise(() => {}), model: () => Promise.reject(new Error("SECRET")) },
  });
  t.match((await fastify.inject("/health/ready")).json(), {
    checks: { store: "no answer within 2 s", model: "failed" },
  });
});

t.test("the model route gives shape and limits as documented", async (t) => {
  const { fastify } = await buildTestApp(t, { allowBaseModel: false });
  const answer = (await fastify.inject("/model")).json<object>();
  t.ok(Check(ModelDocument, answer));
  t.same(answer, {
    model: "demo",
    fingerprint: "f".repeat(64),
    layers: 1,
    heads: 2,
    head_dim: 4,
    n_positions: 64,
    vocab_size: 257,
    special_tokens: { before: [], after: [] },
    device: "cpu",
    precision: "fp32",
    base_model: false,
    generation_defaults: {},
    limits: { max_batch: 8, max_queue: 256, max_n: 4, request_bytes: 65_536, answer_bytes: 1 << 20 },
  });
});

t.test("metrics name routes by pattern", async (t) => {
  const app = await buildTestApp(t);
  const { fastify, metrics, logs } = app;
  const port = await app.listen();
  for (const path of ["/prefixes/some-id", "/random/path"])
    await (await fetch(`http://127.0.0.1:${port}${path}`)).text();
  await until(() => logs.filter((line) => line.includes('"msg":"request"')).length === 2);
  const response = await fastify.inject("/metrics");
  t.match(response.headers["content-type"], /^text\/plain; version=0\.0\.4/);
  t.match(response.body, /prefixd_http_requests_total\{method="GET",route="\/prefixes\/:id",status="4xx"\} 1/);
  t.match(response.body, /prefixd_http_requests_total\{method="GET",route="unmatched",status="4xx"\} 1/);
  t.notMatch(await metrics.render(), /some-id|random/);
});

t.test("the documentation is served without outside resources", async (t) => {
  const { fastify } = await buildTestApp(t);
  t.match((await fastify.inject("/")).headers.location, "/docs/");
  const page = await fastify.inject("/docs/");
  t.match(page.body, /<title>prefixd<\/title>/);
  t.match(page.headers, { "x-frame-options": "DENY", "content-security-policy": /frame-ancestors 'none'/ });
  t.notMatch(page.body, /(src|href)="(https?:)?\/\//);
  for (const [, file] of page.body.matchAll(/(?:src|href)="\.?\/?(?:docs\/)?(static\/[^"]+)"/g))
    t.equal((await fastify.inject(`/docs/${file}`)).statusCode, 200, String(file));
  t.equal((await fastify.inject("/docs/json")).json<{ openapi: string }>().openapi, "3.1.0");
  for (const url of ["/docs/json", "/openapi.json"])
    t.same(parse((await fastify.inject("/openapi.yaml")).body), (await fastify.inject(url)).json(), url);
});

t.test("the description is made once for any number of requests, in any form", async (t) => {
  const { fastify } = await buildTestApp(t, { keyed: true });
  await fastify.ready();
  let made = 0;
  const swagger = fastify.swagger.bind(fastify);
  Object.assign(fastify, { swagger: () => (made++, swagger()) });
  for (const url of ["/openapi.yaml", "/docs/yaml", "/docs/json", "/openapi.json"])
    t.equal((await fastify.inject(url)).statusCode, 200, url);
  t.equal(made, 1);
});

t.test("the description requires a key where the server does", async (t) => {
  const { fastify, routes } = await buildTestApp(t, { keyed: true });
  const { paths, security, components } = (await fastify.inject("/docs/json")).json<{
    paths: Record<string, Record<string, { security?: object[] }>>;
    security: object[];
    components: { securitySchemes: object };
  }>();
  t.match(components.securitySchemes, { key: { type: "http", scheme: "bearer" } });
  t.same(security, [{ key: [] }]);
  for (const { method, url, access } of routes) {
    const operation = paths[url.replace(/:(\w+)/g, "{$1}")]?.[method.toLowerCase()];
    if (operation !== undefined) t.same(operation.security, access === "public" ? [] : undefined, `${method} ${url}`);
  }
});

t.test("openapi.yaml matches the code, names every error and describes every route", async (t) => {
  const app = await documentationApp();
  t.teardown(() => app.close());
  const fresh = openapiYaml(openapiDocument(app));
  t.equal(readFileSync(repositoryFile("openapi.yaml"), "utf8"), fresh, "npm run openapi");
  const document = parse(fresh) as {
    paths: Record<string, Record<string, { summary?: string; operationId?: string; responses: object }>>;
    components: { schemas: { Problem: { properties: { code: { enum: string[] } } } } };
  };
  t.same(document.components.schemas.Problem.properties.code.enum, Object.keys(ERRORS));
  t.same(Object.keys(document.paths).sort(), [
    "/admin/backup",
    "/admin/live",
    "/admin/usage",
    "/admin/users",
    "/admin/users/{user}",
    "/admin/users/{user}/keys",
    "/admin/users/{user}/keys/{key}",
    "/admin/users/{user}/usage",
    "/detokenize",
    "/generate",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/model",
    "/model/embeddings",
    "/prefixes",
    "/prefixes/{id}",
    "/prefixes/{id}/adapter",
    "/prefixes/{id}/adapter/{file}",
    "/prefixes/{id}/generate",
    "/prefixes/{id}/prompt",
    "/prefixes/{id}/restore",
    "/prefixes/{id}/versions",
    "/tokenize",
    "/tokenizer_info",
    "/usage",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/files",
    "/v1/files/{file}",
    "/v1/files/{file}/content",
    "/v1/fine_tuning/jobs",
    "/v1/fine_tuning/jobs/{job}",
    "/v1/fine_tuning/jobs/{job}/cancel",
    "/v1/fine_tuning/jobs/{job}/checkpoints",
    "/v1/fine_tuning/jobs/{job}/events",
    "/v1/models",
    "/v1/models/{model}",
  ]);
  const ids = Object.values(document.paths).flatMap((path) =>
    Object.values(path).map((operation) => operation.operationId),
  );
  t.equal(new Set(ids).size, 49);
  for (const match of fresh.matchAll(/\$ref: "?#\/components\/schemas\/(\w+)/g))
    t.ok(match[1] !== undefined && match[1] in document.components.schemas, String(match[1]));
});

t.test("an unexpected body of a deletion is refused as documented", async (t) => {
  const { fastify } = await buildTestApp(t);
  const { paths } = parse(openapiYaml(openapiDocument(await documentationApp()))) as {
    paths: Record<string, Record<string, { responses: Record<string, { description: string }> }>>;
  };
  const odd: [
    path: string,
    request: { method: "DELETE"; url: string; payload: string; headers: Record<string, string> },
  ][] = [
    [
      "/prefixes/{id}",
      { method: "DELETE", url: "/prefixes/x", payload: "x", headers: { "content-type": "text/plain" } },
    ],
    [
      "/prefixes/{id}",
      {
        method: "DELETE",
        url: "/prefixes/x",
        payload: JSON.stringify("x".repeat(70_000)),
        headers: { "content-type": "application/json" },
      },
    ],
  ];
  for (const [path, request] of odd) {
    const { code, status } = (await fastify.inject(request)).json<{ code: string; status: number }>();
    t.match(
      paths[path]?.[request.method.toLowerCase()]?.responses[status]?.description,
      new RegExp(`\`${code}\``),
      `${request.method} ${path} ${code}`,
    );
  }
});

type Fields = Readonly<Record<string, { description?: string; default?: unknown }>>;

const parametersOf = ({ properties }: { properties: object }): string =>
  markdownTable(
    ["field", "default", "meaning"],
    Object.entries(properties as Fields).map(([name, field]) => [
      "`" + name + "`",
      field.default === undefined ? "" : "`" + JSON.stringify(field.default) + "`",
      field.description ?? "",
    ]),
  );

t.test("the reference lists supported and unsupported parameters", async (t) => {
  const parameters = parametersOf(GenerateBody);
  t.equal(docsBlock("docs/reference/generation.md", "parameters", parameters), parameters);
  const ofCompletions = parametersOf(CompletionsBody);
  t.equal(docsBlock("docs/reference/openai.md", "parameters", ofCompletions), ofCompletions);
  const ofChats = parametersOf(ChatBody);
  t.equal(docsBlock("docs/reference/openai.md", "chat parameters", ofChats), ofChats);
  const others = markdownTable(
    ["name", "why not"],
    Object.entries(NOT_OFFERED).map(([name, why]) => ["`" + name + "`", why]),
  );
  t.equal(docsBlock("docs/reference/generation.md", "not offered", others), others);
  const names = Object.keys(GenerateBody.properties);
  t.same(
    Object.keys(NOT_OFFERED).filter((name) => names.includes(name) || name in FIELD_ALIASES),
    [],
    "nothing is both",
  );
});

t.test("docs/reference/api.md lists the routes", async (t) => {
  const { fastify, routes } = await buildTestApp(t, { keyed: true });
  const { paths } = (await fastify.inject("/docs/json")).json<{
    paths: Record<string, Record<string, { summary: string }>>;
  }>();
  const needed = { public: "none", user: "any", admin: "admin" };
  const described = Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([verb, { summary }]) => {
      const method = verb.toUpperCase();
      const route = routes.find((one) => one.method === method && one.url.replace(/:(\w+)/g, "{$1}") === path)!;
      return ["`" + `${method} ${path}` + "`", needed[route.access], summary];
    }),
  );
  const table = markdownTable(["route", "key", "what it does"], described);
  t.equal(docsBlock("docs/reference/api.md", "routes", table), table);
});

t.test("docs/reference/errors.md lists the errors of the code", async (t) => {
  const rows = Object.entries(ERRORS).map(([code, { status, title }]) => ["`" + code + "`", String(status), title]);
  const table = markdownTable(["code", "status", "title"], rows);
  t.equal(docsBlock("docs/reference/errors.md", "errors", table), table);
});

t.test("suggestions for misspelt names", async (t) => {
  t.equal(nearest("promt", ["prompt", "n"]), "prompt");
  t.equal(nearest("topk", ["top_k", "top_p"]), "top_k");
  t.equal(nearest("max-new-tokens", ["max_new_tokens"]), "max_new_tokens");
  t.equal(nearest("zzz", ["n", "stop"]), undefined);
});
