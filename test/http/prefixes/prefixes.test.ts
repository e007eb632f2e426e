import { createHash } from "node:crypto";
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import type { InjectOptions } from "fastify";
import t from "tap";
import { ADAPTER, buildTestApp, form, post, TEST_SHAPE, until } from "../../support/app.ts";
import { safetensors } from "../../support/safetensors.ts";

const put = (
  id: string,
  files: Parameters<typeof form>[0],
  headers: Record<string, string> = {},
): { method: "PUT"; url: string; payload: Buffer; headers: Record<string, string> } => {
  const { payload, headers: type } = form(files);
  return { method: "PUT", url: `/prefixes/${id}`, payload, headers: { ...type, ...headers } };
};
const putJson = (
  id: string,
  payload: object,
  headers: Record<string, string> = {},
): { method: "PUT"; url: string; payload: object; headers: Record<string, string> } => ({
  method: "PUT",
  url: `/prefixes/${id}`,
  payload,
  headers,
});

t.test("register, replace, look at, list, download, remove", async (t) => {
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

t.test("what an adapter was trained on is shown, and a warning where that is another model", async (t) => {
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

t.test("conditions of writes", async (t) => {
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

t.test(
  "a page ends at so many bytes as well, and the next one goes on there, from own prefixes to those of others",
  async (t) => {
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
  },
);

t.test("an id whose slash is not escaped: the answer says how the path is written", async (t) => {
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

t.test("bad uploads", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const [config, weights] = ADAPTER;
  const code = async (files: Parameters<typeof form>[0]): Promise<string> =>
    (await fastify.inject(put("p", files))).json<{ code: string }>().code;
  t.equal(await code([config]), "upload_incomplete");
  t.equal(await code([weights]), "upload_incomplete");
  t.equal(await code([]), "upload_incomplete");
  t.equal(await code([config, config, weights]), "invalid_request");
  t.match((await fastify.inject(put("p", [config, { name: "adapter_model.bin", data: "x" }]))).json(), {
    code: "upload_incomplete",
    detail:
      'The form has "adapter_model.bin" instead of adapter_model.safetensors: pickle files can run code and are never read. Save the adapter with safe_serialization=True.',
  });
  t.match((await fastify.inject(put("p", [config, { name: "weights.safetensors", data: "x" }]))).json(), {
    code: "upload_incomplete",
    detail: 'The form lacks the file adapter_model.safetensors. It has "weights.safetensors".',
  });
  t.match((await fastify.inject(put("p", [{ name: "b.bin", data: "x" }, weights]))).json(), {
    code: "upload_incomplete",
    detail: 'The form lacks the file adapter_config.json. It has "b.bin".',
  });
  t.equal(await code([{ name: "adapter_config.json", data: "x".repeat(65_537) }, weights]), "body_too_large");
  t.equal(await code([config, { name: "adapter_model.safetensors", data: Buffer.alloc(4 << 20) }]), "body_too_large");
  t.match(
    (
      await fastify.inject(
        put("p", [
          ...ADAPTER,
          { name: "a", data: Buffer.alloc(8 << 20) },
          { name: "optimizer.pt", data: Buffer.alloc(8.5 * 1024 ** 2) },
        ]),
      )
    ).json(),
    {
      code: "body_too_large",
      detail: /^The form's other files \("a", "optimizer\.pt"\) are larger than 16777216 bytes together/,
    },
  );
  t.match((await fastify.inject(put("p", [...ADAPTER, { field: "note", data: "hello" }]))).json(), {
    code: "invalid_request",
    detail: /has a field "note"/,
  });
  t.equal(await code([{ name: "adapter_config.json", data: "nonsense" }, weights]), "adapter_config_invalid");
  t.equal(await code(Array.from({ length: 40 }, (_, i) => ({ name: `f${i}`, data: "x" }))), "invalid_request");
  t.equal(await code([{ ...config, field: "__proto__" }, weights]), "invalid_request");

  const whole = form(ADAPTER);
  const broken: [string, Buffer, string][] = [
    ["cut off", whole.payload.subarray(0, 200), whole.headers["content-type"] ?? ""],
    ["no boundary", whole.payload, "multipart/form-data"],
    ["another boundary", whole.payload, "multipart/form-data; boundary=other"],
    ["no form at all", Buffer.from("\r\n\r\n\0\0garbage"), whole.headers["content-type"] ?? ""],
    [
      "a plain field",
      Buffer.from(
        '------prefixd-test\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n------prefixd-test--\r\n',
      ),
      whole.headers["content-type"] ?? "",
    ],
    ["nothing", Buffer.alloc(0), whole.headers["content-type"] ?? ""],
  ];
  for (const [name, payload, type] of broken) {
    const response = await fastify.inject({
      method: "PUT",
      url: "/prefixes/p",
      payload,
      headers: { "content-type": type },
    });
    t.match(response.json(), { status: 400, code: /^(invalid_request|upload_incomplete)$/ }, name);
  }
  for (const type of [
    "text/plain",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "application/jsonx",
  ]) {
    t.match(
      (
        await fastify.inject({ method: "PUT", url: "/prefixes/p", payload: "{}", headers: { "content-type": type } })
      ).json(),
      { status: 415, code: "unsupported_media_type" },
      type,
    );
  }
  t.match((await fastify.inject({ method: "PUT", url: "/prefixes/p" })).json(), {
    status: 415,
    code: "unsupported_media_type",
  });
  t.equal(registry.entries.size, 0);
});

t.test("files are told by their own names, or else by their fields'", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const [{ data: config }, { data: weights }] = ADAPTER;
  const named = (fields: [string, string], names: [string?, string?], type?: string): Parameters<typeof form>[0] => [
    { field: fields[0], ...(names[0] === undefined ? {} : { name: names[0] }), data: config, type },
    { field: fields[1], ...(names[1] === undefined ? {} : { name: names[1] }), data: weights, type },
  ];
  const bare: [string, string] = ["adapter_config", "adapter_model"];
  const full: [string, string] = ["adapter_config.json", "adapter_model.safetensors"];
  for (const files of [
    named(bare, ["upload", "upload"]),
    named(bare, ["blob", "blob"]),
    named(bare, []),
    named(bare, [], "application/json"),
    named(full, []),
    named(full, ["a", "b"]),
    named(bare, ["", ""]),
    named(bare, ["../x/config", "C:\\x\\intent.safetensors"]),
    named([bare[1], bare[0]], full),
    named(["x", bare[1]], [full[0], undefined]),
  ]) {
    registry.entries.clear();
    t.equal((await fastify.inject(put("p", files))).statusCode, 201, JSON.stringify(files));
    const stored = [...registry.entries.values()][0]!.files;
    t.same(
      [...stored].map(([name, bytes]) => [name, Buffer.from(bytes).toString()]),
      [
        [full[0], config],
        [full[1], weights],
      ],
    );
  }
  t.match((await fastify.inject(put("p", [...named(bare, []), ADAPTER[0]]))).json(), {
    code: "invalid_request",
    detail: "The form has adapter_config.json twice.",
  });
});

t.test("a whole folder of save_pretrained or of a Trainer", async (t) => {
  const { fastify, registry, logs } = await buildTestApp(t);
  const others = [
    "README.md",
    "training_args.bin",
    "adapter_model.bin",
    "tokenizer.json",
    "optimizer.pt",
    "x".repeat(100),
  ];
  const files = [
    ...others.slice(0, 3).map((name) => ({ name, data: "{}" })),
    ...ADAPTER,
    ...others.slice(3).map((name) => ({ name, data: Buffer.alloc(3 << 20) })),
  ];
  t.equal((await fastify.inject(put("p", files))).statusCode, 201);
  t.same(Object.keys([...registry.entries.values()][0]!.meta.files), [
    "adapter_config.json",
    "adapter_model.safetensors",
  ]);
  t.match(
    logs.map((line) => JSON.parse(line) as { files?: string[] }).find((line) => line.files !== undefined),
    {
      msg: "ignored uploaded files that are not part of an adapter",
      files: [...others.slice(0, 5), "x".repeat(64)],
    },
  );
});

t.test("copies of the base's embeddings are looked at and not kept", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const prompt = { dtype: "F32", shape: [1, 8], data: new Uint8Array(32).fill(1) };
  const copy = (change: number): { dtype: string; shape: number[]; data: Uint8Array } => {
    const data = new Uint8Array(TEST_SHAPE.vocabSize * 8 * 4);
    data[100] = change;
    return { dtype: "F32", shape: [TEST_SHAPE.vocabSize, 8], data };
  };
  const upload = async (
    tensors: Parameters<typeof safetensors>[0],
  ): Promise<{ statusCode: number; body: { code?: string; detail: string } }> => {
    const response = await fastify.inject(
      put("p", [ADAPTER[0], { name: ADAPTER[1].name, data: Buffer.from(safetensors(tensors)) }]),
    );
    return { statusCode: response.statusCode, body: response.json() };
  };
  const [wte, head] = ["base_model.transformer.wte.weight", "base_model.lm_head.weight"];
  t.match(await upload({ prompt_embeddings: prompt, [wte]: copy(1), [head]: copy(0) }), {
    statusCode: 409,
    body: {
      code: "prefix_base_mismatch",
      detail: /differ from the adapter's base_model\.transformer\.wte\.weight: it/,
    },
  });
  t.equal(registry.entries.size, 0);
  t.equal((await upload({ [wte]: copy(0), [head]: copy(0), prompt_embeddings: prompt })).statusCode, 201);
  const { files } = [...registry.entries.values()][0]!;
  t.ok(files.get("adapter_model.safetensors")!.length < 200);
  const zeros = createHash("sha256").update(copy(0).data).digest("hex");
  for (const query of ["", "?dtype=F32"])
    t.same((await fastify.inject(`/model/embeddings${query}`)).json(), {
      shape: [257, 8],
      sha256: { "wte.weight": zeros, "lm_head.weight": zeros },
    });
  t.match((await fastify.inject("/model/embeddings?dtype=F64")).json(), { code: "invalid_parameter" });
  t.match((await fastify.inject("/model/embeddings?type=F16")).json(), { code: "unknown_field" });
});

t.test("an upload that is too large is answered from its header, with what it has too much", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  /** Announces a form of 300 MB and sends its first megabyte. */
  const begin = async (...parts: Parameters<typeof form>[0]): Promise<object> => {
    const { payload, headers } = form(parts);
    const sending = request({
      port,
      method: "PUT",
      path: "/prefixes/p",
      headers: { ...headers, "content-length": 300e6 },
    });
    t.teardown(() => sending.destroy());
    sending.write(payload.subarray(0, 1e6));
    const [answer] = (await once(sending, "response")) as [IncomingMessage];
    return JSON.parse(await text(answer)) as object;
  };
  const large = { dtype: "F32", shape: [300_000, 8], data: new Uint8Array(300_000 * 8 * 4) };
  const prompt = { dtype: "F32", shape: [1, 8], data: new Uint8Array(32) };
  const weights = (tensors: Parameters<typeof safetensors>[0]): Parameters<typeof form>[0][number] => ({
    name: ADAPTER[1].name,
    data: Buffer.from(safetensors(tensors)),
  });
  const resized = weights({ "base_model.transformer.wte.weight": large, prompt_embeddings: prompt });
  const lora = weights({ "base_model.model.lora_A.weight": large, "base_model.model.lora_B.weight": prompt });
  t.match(await begin(resized), {
    status: 422,
    code: "adapter_shape_mismatch",
    detail: /wte\.weight in the adapter has shape \[300000, 8\].*save_embedding_layers=False/,
  });
  t.match(await begin(lora), {
    status: 422,
    code: "adapter_shape_mismatch",
    detail: /has "base_model\.model\.lora_A\.weight"/,
  });
  t.match(
    await begin({ name: ADAPTER[0].name, data: '{"peft_type":"LORA"}' }, lora),
    { status: 422, code: "adapter_type_unsupported" },
    "the configuration says it better, where it comes first",
  );
});

t.test("an upload of tensors that do not belong is given up at what could fit the model", async (t) => {
  const { fastify } = await buildTestApp(t);
  const lora = Buffer.from(
    safetensors({
      "base_model.model.lora_A.weight": { dtype: "F32", shape: [1 << 20], data: new Uint8Array(4 << 20) },
    }),
  );
  t.match((await fastify.inject(put("p", [{ name: ADAPTER[1].name, data: lora }]))).json(), {
    status: 422,
    code: "adapter_shape_mismatch",
    detail: /lora_A\.weight/,
  });
});

t.test("parts that the parser skips are counted, too", async (t) => {
  const { fastify } = await buildTestApp(t);
  const nameless = form([{ name: "x", data: Buffer.alloc(24 << 20) }]);
  const payload = Buffer.from(
    nameless.payload.toString("latin1").replace("Content-Disposition: form-data", "X-Disposition: form-data"),
    "latin1",
  );
  const response = await fastify.inject({ method: "PUT", url: "/prefixes/p", payload, headers: nameless.headers });
  t.match(response.json(), { status: 413, code: "body_too_large", detail: /^The upload is larger than \d+ bytes/ });
});

t.test("a large part that is no part of a form does not stop what comes behind it", async (t) => {
  const { fastify, registry } = await buildTestApp(t);
  const [config, weights] = ADAPTER;
  const stray = (name: string): Buffer =>
    Buffer.from(
      form([{ ...weights, data: Buffer.alloc(1_000_000) }])
        .payload.toString("latin1")
        .replace("Content-Disposition: form-data", name)
        .replace(/--\r\n$/, "\r\n"),
      "latin1",
    );
  for (const name of ["Content-Disposition: attachment", "X-Disposition: form-data"]) {
    const rest = form([config]);
    const response = await fastify.inject({
      method: "PUT",
      url: "/prefixes/p",
      payload: Buffer.concat([stray(name), rest.payload]),
      headers: rest.headers,
    });
    t.match(response.json(), { status: 400, code: "upload_incomplete" }, name);
  }
  t.equal(registry.entries.size, 0);
});

t.test("removal ends what runs on the prefix before it answers", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  engine.stepMs = null;
  await fastify.inject(putJson("p", { text: "a" }));
  const running = fastify.inject(post("/prefixes/p/generate", { prompt: "a" }));
  await until(() => engine.submitted.length === 1);
  t.equal((await fastify.inject({ method: "DELETE", url: "/prefixes/p" })).statusCode, 204);
  t.equal(engine.stats().running, 0);
  t.match((await running).json(), { status: 410, code: "removed" });
});
