import type { InjectOptions } from "fastify";
import t from "tap";
import type { form } from "../../support/app.ts";
import { ADAPTER, buildTestApp, post, until } from "../../support/app.ts";
import { put, putJson } from "./requests.ts";

t.test("register, replace, show, list, download, remove", async (t) => {
  const { fastify } = await buildTestApp(t);
  const first = await fastify.inject(put("intent", ADAPTER));
  t.equal(first.statusCode, 201);
  t.equal(first.headers.location, "/prefixes/intent");
  const { digest } = first.json<{ digest: string }>();
  t.equal(first.headers.etag, `"${digest}"`);
  t.match(first.json(), {
    id: "intent",
    kind: "PREFIX_TUNING",
    virtual_tokens: 10,
    files: { "adapter_config.json": 29, "adapter_model.safetensors": 7 },
  });
  const second = await fastify.inject(
    put(
      "intent",
      [...ADAPTER].reverse().map((file, i) => ({ ...file, field: `any${i}` })),
    ),
  );
  t.equal(second.statusCode, 200);
  t.equal(second.headers.location, undefined);

  const got = await fastify.inject("/prefixes/intent");
  t.match(got.json(), { id: "intent", digest });
  t.equal(
    (await fastify.inject({ url: "/prefixes/intent", headers: { "if-none-match": `W/"${digest}"` } })).statusCode,
    304,
  );
  t.equal(
    (await fastify.inject({ url: "/prefixes/intent", headers: { "if-none-match": '"other", "another"' } })).statusCode,
    200,
  );
  t.equal(
    (await fastify.inject({ url: "/prefixes/intent", headers: { "if-none-match": "unquoted" } })).statusCode,
    400,
  );

  const files = (await fastify.inject("/prefixes/intent/adapter")).json<{
    files: { name: string; bytes: number; url: string }[];
  }>().files;
  t.same(
    files.map(({ name, bytes }) => [name, bytes]),
    [
      ["adapter_config.json", 29],
      ["adapter_model.safetensors", 7],
    ],
  );
  const file = await fastify.inject(files[1]?.url ?? "");
  t.equal(file.body, "weights");
  t.match(file.headers, {
    "content-type": "application/octet-stream",
    "content-disposition": 'attachment; filename="adapter_model.safetensors"',
    etag: `"${digest}"`,
  });
  t.match((await fastify.inject("/prefixes/intent/adapter/passwd")).json(), { code: "not_found" });

  t.equal((await fastify.inject({ method: "DELETE", url: "/prefixes/intent" })).statusCode, 204);
  for (const url of ["/prefixes/intent", "/prefixes/intent/adapter", "/prefixes/intent/adapter/adapter_config.json"])
    t.match((await fastify.inject(url)).json(), { code: "prefix_not_found", status: 404 });
  t.match((await fastify.inject({ method: "DELETE", url: "/prefixes/intent" })).json(), { code: "prefix_not_found" });
});

t.test("earlier versions are listed and put back", async (t) => {
  const { fastify, audits } = await buildTestApp(t);
  const digests: string[] = [];
  for (const text of ["one", "two"]) {
    const { headers } = await fastify.inject(putJson("polite", { text }));
    digests.push(String(headers.etag).slice(1, -1));
  }
  const [one, two] = digests;
  const versions = await fastify.inject("/prefixes/polite/versions");
  t.equal(versions.headers.etag, `"${two}"`);
  t.match(versions.json(), {
    versions: [
      { digest: two, current: true, kind: "HARD_PROMPT", updated_by: "local" },
      { digest: one, current: false, virtual_tokens: 3, files: { "prompt.json": /\d/ } },
    ],
  });
  const restore = (payload: object, headers = {}): InjectOptions => ({
    method: "POST",
    url: "/prefixes/polite/restore",
    payload,
    headers,
  });
  t.match((await fastify.inject(restore({ digest: one }, { "if-match": `"${one}"` }))).json(), {
    code: "precondition_failed",
  });
  const restored = await fastify.inject(restore({ digest: one }, { "if-match": `"${two}"` }));
  t.match(
    [restored.statusCode, restored.headers.etag, restored.json()],
    [200, `"${one}"`, { id: "polite", digest: one }],
  );
  t.match(audits.at(-1), { action: "prefix.restore", outcome: "ok", target: "local/polite", digest: one });
  t.match((await fastify.inject("/prefixes/polite")).json(), { digest: one });
  t.match((await fastify.inject(restore({ digest: "0".repeat(64) }))).json(), {
    code: "version_not_found",
    status: 404,
  });
  t.match((await fastify.inject(restore({ digest: "x" }))).json(), { code: "invalid_parameter" });
  t.match((await fastify.inject(restore({}))).json(), { code: "invalid_request" });
  t.match((await fastify.inject("/prefixes/none/versions")).json(), { code: "prefix_not_found" });
});

t.test("an adapter's base model is shown, with a warning if it is another", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const trainedOn = (name: string | null): Parameters<typeof form>[0] => [
    {
      name: "adapter_config.json",
      data: JSON.stringify({ peft_type: "PREFIX_TUNING", base_model_name_or_path: name, revision: "v1" }),
    },
    ADAPTER[1],
  ];
  const warning = {
    code: "prefix_base_name_mismatch",
    detail: 'The adapter was trained on "./other" (base_model_name_or_path); the base model served here is "demo".',
  };
  const expected = { base_model_name_or_path: "./other", revision: "v1", warnings: [warning] };
  t.match((await fastify.inject(put("a", trainedOn("./other")))).json(), expected);
  t.match((await fastify.inject("/prefixes/a")).json(), expected);
  t.match((await fastify.inject("/prefixes")).json(), { prefixes: [expected] });
  t.match((await fastify.inject(put("a", trainedOn("prefixd/demo")))).json(), {
    base_model_name_or_path: "prefixd/demo",
    warnings: [],
  });
  t.match((await fastify.inject(put("a", trainedOn(null)))).json(), { base_model_name_or_path: null, warnings: [] });
  for (const [id, { meta, files }] of [...registry.entries]) {
    const before = { ...meta };
    delete before.baseName;
    delete before.baseRevision;
    registry.entries.set(id, { meta: before, files });
  }
  t.match(
    (await fastify.inject("/prefixes/a")).json(),
    { base_model_name_or_path: null, revision: null, warnings: [] },
    "a record of before names were kept",
  );
});

t.test("hard prompts, as text and as token ids", async (t) => {
  const { fastify } = await buildTestApp(t);
  t.match((await fastify.inject(putJson("a", { text: "hello" }))).json(), {
    kind: "HARD_PROMPT",
    virtual_tokens: 5,
    files: { "prompt.json": 50 },
  });
  t.match((await fastify.inject(putJson("b", { token_ids: [1, 2] }))).json(), { virtual_tokens: 2 });
  t.same((await fastify.inject("/prefixes/a/adapter")).json(), {
    files: [{ name: "prompt.json", bytes: 50, url: "/prefixes/a/adapter/prompt.json" }],
  });
  t.same((await fastify.inject("/prefixes/a/adapter/prompt.json")).json(), {
    text: "hello",
    token_ids: [...Buffer.from("hello")],
  });
  for (const [body, code] of [
    [{}, "invalid_request"],
    [{ text: "a", token_ids: [1] }, "invalid_request"],
    [{ text: "" }, "invalid_parameter"],
    [{ token_ids: [] }, "invalid_parameter"],
    [{ token_ids: [999] }, "invalid_token_id"],
    [{ token_ids: ["1"] }, "invalid_parameter"],
    [{ txt: "a" }, "unknown_field"],
    [{ text: "x".repeat(65) }, "context_exceeded"],
  ] as const)
    t.match((await fastify.inject(putJson("c", body))).json(), { code }, JSON.stringify(body).slice(0, 40));
});

t.test("conditional writes", async (t) => {
  const { fastify } = await buildTestApp(t);
  const status = async (options: InjectOptions): Promise<number> => (await fastify.inject(options)).statusCode;
  t.equal(await status(putJson("p", { text: "a" }, { "if-match": "*" })), 412);
  t.equal(await status(putJson("p", { text: "a" }, { "if-none-match": "*" })), 201);
  t.equal(await status(putJson("p", { text: "b" }, { "if-none-match": "*" })), 412);
  const etag = String((await fastify.inject("/prefixes/p")).headers.etag);
  t.equal(await status(putJson("p", { text: "b" }, { "if-match": '"stale"' })), 412);
  t.equal(
    await status(putJson("p", { text: "b" }, { "if-match": `W/${etag}` })),
    412,
    "a weak tag never matches a write",
  );
  t.equal(await status(putJson("p", { text: "b" }, { "if-match": `"stale", ${etag}` })), 200);
  t.equal(await status({ method: "DELETE", url: "/prefixes/p", headers: { "if-match": etag } }), 412);
  t.equal(await status(putJson("p", { text: "b" }, { "if-match": "nonsense" })), 400);
  t.equal(await status(putJson("p", { text: "b" }, { "if-none-match": '"x"' })), 400);
  t.equal(await status({ method: "DELETE", url: "/prefixes/p", headers: { "if-match": "*" } }), 204);
});

t.test("lists come in pages, in order", async (t) => {
  const { fastify } = await buildTestApp(t);
  for (const id of ["c", "a", "b"]) await fastify.inject(putJson(id, { text: id }));
  const page = async (query: string): Promise<{ prefixes: { id: string }[]; next: string | null }> =>
    (await fastify.inject(`/prefixes${query}`)).json();
  t.same(
    (await page("")).prefixes.map(({ id }) => id),
    ["a", "b", "c"],
  );
  const one = await page("?limit=2");
  t.match(one, { prefixes: [{ id: "a" }, { id: "b" }], next: "b" });
  t.match(await page(`?limit=2&after=${one.next}`), { prefixes: [{ id: "c" }], next: null });
  t.match(await page("?owner=others"), { prefixes: [], next: null });
  t.match(await page("?owner=me&after=b"), { prefixes: [{ id: "c" }] });
  t.match((await fastify.inject("/prefixes?owner=nobody")).json(), {
    code: "invalid_parameter",
    detail: /me,others,all/,
  });
  for (const bad of ["%2Fa", "a%2F", ".."])
    t.match((await fastify.inject(`/prefixes?after=${bad}`)).json(), { code: "invalid_prefix_id" });
  for (const bad of ["?limit=0", "?limit=1001", "?limit=x", "?limit=1.5"])
    t.match((await fastify.inject(`/prefixes${bad}`)).json(), { code: "invalid_parameter" }, bad);
  t.match((await fastify.inject("/prefixes?afer=a")).json(), { code: "unknown_field", detail: /mean "after"/ });
});

t.test("a page also ends at a number of bytes; the next continues there, from own prefixes to others'", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const name = "n".repeat(2000);
  const guests = Array.from({ length: 1000 }, (_, i) => `guest-${i}`);
  const ids: string[] = [];
  for (const user of ["local", "ann", "bob"]) {
    for (let i = 100; i < 350; i++) {
      const key = { user, name: `p${i}` };
      await registry.register(key, { kind: "hard", ids: Int32Array.of(1) });
      const entry = registry.entries.get(`${user}/p${i}`)!;
      registry.entries.set(`${user}/p${i}`, {
        ...entry,
        meta: { ...entry.meta, baseName: name, visibility: "shared", shared_with: guests, readable_by: ["local"] },
      });
    }
  }
  for (const user of ["", "ann/", "bob/"]) for (let i = 100; i < 350; i++) ids.push(`${user}p${i}`);
  const pages: { prefixes: { id: string }[]; next: string | null }[] = [];
  let after = "";
  do {
    const { payload, statusCode } = await fastify.inject(`/prefixes?limit=1000${after}`);
    t.equal(statusCode, 200);
    if (payload.length > 1.1 * 1024 ** 2) t.fail(`${payload.length} bytes`);
    t.notMatch(payload, /guest-/, "a list does not say with whom else");
    pages.push(JSON.parse(payload) as (typeof pages)[number]);
    after = `&after=${encodeURIComponent(pages.at(-1)!.next ?? "")}`;
  } while (pages.at(-1)!.next !== null);
  t.ok(pages.length >= 2, `${pages.length} pages`);
  t.same(
    pages.flatMap(({ prefixes }) => prefixes.map(({ id }) => id)),
    ids,
  );
  t.match((await fastify.inject("/prefixes/p100")).json(), { shared_with: guests }, "the prefix itself does");
});

t.test("an id with an unescaped slash is told how to write the path", async (t) => {
  const { fastify } = await buildTestApp(t);
  const detail = async (method: "GET" | "PUT" | "POST", url: string): Promise<string> => {
    const answer = (await fastify.inject({ method, url })).json<{ code: string; detail: string }>();
    t.equal(answer.code, "not_found", url);
    return answer.detail;
  };
  for (const rest of ["", "/adapter", "/adapter/adapter_config.json"])
    t.ok((await detail("GET", `/prefixes/ann/dates${rest}`)).endsWith(`: /prefixes/ann%2Fdates${rest}.`), rest);
  t.match(await detail("PUT", "/prefixes/ann/dates?x=1"), "/prefixes/ann%2Fdates.");
  t.match(await detail("POST", "/prefixes/ann/dates/generate"), "/prefixes/ann%2Fdates/generate.");
  const key = `pfx_0123456789abcdef_${"a".repeat(43)}`;
  for (const url of [
    "/prefixes/a/b/c",
    "/prefixes/../b",
    `/prefixes/ann/${key}`,
    "/prefixes/a%20b/c",
    "/other/ann/dates",
  ])
    t.notMatch(await detail("GET", url), "%2F", url);
});

t.test("bad ids", async (t) => {
  const { fastify } = await buildTestApp(t);
  for (const id of ["..%2Fx", "%00", ".hidden", "a%20b", "a".repeat(129), "%C3%A9", "-x"]) {
    t.match((await fastify.inject(putJson(id, { text: "a" }))).json(), { code: "invalid_prefix_id" }, id.slice(0, 20));
  }
  t.match((await fastify.inject(putJson("a".repeat(600), { text: "a" }))).json(), {
    status: 400,
    code: "invalid_request",
  });
  t.match((await fastify.inject({ method: "PUT", url: "/prefixes/%zz", payload: {} })).json(), {
    status: 400,
    code: "invalid_request",
  });
});

t.test("removal ends requests on the prefix before it answers", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  engine.stepMs = null;
  await fastify.inject(putJson("p", { text: "a" }));
  const running = fastify.inject(post("/prefixes/p/generate", { prompt: "a" }));
  await until(() => engine.submitted.length === 1);
  t.equal((await fastify.inject({ method: "DELETE", url: "/prefixes/p" })).statusCode, 204);
  t.equal(engine.stats().running, 0);
  t.match((await running).json(), { status: 410, code: "removed" });
});
