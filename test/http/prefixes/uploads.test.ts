/** Adapters as forms: which files count, what is refused, and when. */
import { createHash } from "node:crypto";
import { once } from "node:events";
import { request, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import t from "tap";
import { ADAPTER, buildTestApp, form, TEST_SHAPE } from "../../support/app.ts";
import { safetensors } from "../../support/safetensors.ts";
import { put } from "./requests.ts";

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

t.test("files are recognised by file name, or else by field name", async (t) => {
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

t.test("a whole folder of save_pretrained or a Trainer is accepted", async (t) => {
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

t.test("copies of the base's embeddings are compared and not kept", async (t) => {
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

t.test("an upload that is too large is refused from its header, naming the excess", async (t) => {
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

t.test("an upload of foreign tensors is abandoned at the size that could fit the model", async (t) => {
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

t.test("parts that the parser skips are counted too", async (t) => {
  const { fastify } = await buildTestApp(t);
  const nameless = form([{ name: "x", data: Buffer.alloc(24 << 20) }]);
  const payload = Buffer.from(
    nameless.payload.toString("latin1").replace("Content-Disposition: form-data", "X-Disposition: form-data"),
    "latin1",
  );
  const response = await fastify.inject({ method: "PUT", url: "/prefixes/p", payload, headers: nameless.headers });
  t.match(response.json(), { status: 413, code: "body_too_large", detail: /^The upload is larger than \d+ bytes/ });
});

t.test("a large part without a form field does not block those after it", async (t) => {
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
