/** What a request says must be one thing to every reader: its body's bytes and keys, its headers and its target. And null says nothing. */
import { connect } from "node:net";
import t from "tap";
import { checkObjects } from "../../src/http/json-body.ts";
import { CreateKeyBody, CreateUserBody, PatchUserBody } from "../../src/http/admin/schema.ts";
import { GenerateBody } from "../../src/http/generate/schema.ts";
import { HardPromptBody, SharingBody } from "../../src/http/prefixes/schema.ts";
import { DetokenizeBody, TokenizeBody } from "../../src/http/tokens/schema.ts";
import { CompletionsBody } from "../../src/http/v1/completions-schema.ts";
import { nullableFields } from "../../src/http/validation.ts";
import { ADAPTER, ADMIN_KEY, buildTestApp, form, post } from "../support/app.ts";
import { seededRandom } from "../support/model.ts";

const JSON_TYPE = { "content-type": "application/json" };

t.test("bytes that are not UTF-8 and other charsets are refused; a byte order mark is ignored", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const send = async (
    payload: Buffer,
    type = "application/json",
  ): Promise<{ status?: number; code?: string; detail?: string }> =>
    (await fastify.inject({ method: "POST", url: "/generate", payload, headers: { "content-type": type } })).json();
  const latin1 = Buffer.from('{"prompt":"Caf\xe9","max_new_tokens":0,"echo":true}', "latin1");
  t.match(await send(latin1), { status: 400, code: "invalid_request", detail: "The body is not UTF-8." });
  for (const charset of ["iso-8859-1", '"utf-16"', "utf-16", "latin1"])
    t.match(await send(latin1, `application/json; charset=${charset}`), {
      status: 415,
      code: "unsupported_media_type",
      detail: /UTF-8/,
    });
  t.match(
    await send(Buffer.from([...Buffer.from('{"prompt":"'), 0xed, 0xa0, 0x80, ...Buffer.from('"}')])),
    { code: "invalid_request" },
    "a surrogate as bytes",
  );
  t.equal(engine.submitted.length, 0);
  const utf8 = Buffer.from('\ufeff{"prompt":"Caf\u00e9"}');
  for (const type of [
    "application/json",
    "application/json; charset=utf-8",
    'application/json;charset="UTF-8"',
    "application/json; charset=utf8",
  ])
    t.notMatch(await send(utf8, type), { code: /./ }, type);
  t.equal(Buffer.from(engine.submitted[0]!.promptIds).toString(), "Caf\u00e9");
});

t.test("a lone surrogate in any text is refused, naming the field", async (t) => {
  const { fastify } = await buildTestApp(t, { keyed: true });
  const send = async (method: "POST" | "PUT" | "PATCH", url: string, payload: string): Promise<unknown> =>
    (
      await fastify.inject({ method, url, payload, headers: { ...JSON_TYPE, authorization: `Bearer ${ADMIN_KEY}` } })
    ).json();
  const places: ["POST" | "PUT" | "PATCH", string, string, RegExp][] = [
    ["POST", "/generate", '{"prompt":"a \\ud800 b"}', /^prompt has half/],
    ["POST", "/generate", '{"prompts":["a",[1],"\\uDC00"]}', /^prompts\[2\] has/],
    ["POST", "/generate", '{"prompt":"a","stop":["\\ud83d\\ude00","\\ud83d"]}', /^stop\[1\] has/],
    ["POST", "/generate", '{"prompt":"a","bad_words":["\\udfff\\ud800"]}', /^bad_words\[0\] has/],
    ["POST", "/generate", '{"prompt":"a","logit_bias":{"\\ud800":1}}', /^logit_bias: a key has/],
    ["POST", "/generate", '{"\\ud800":1}', /^The body: a key has/],
    ["POST", "/generate", '"\\ud800"', /^The body has/],
    ["PUT", "/prefixes/p", '{"text":"\\ud800"}', /^text has/],
    ["PATCH", "/prefixes/p", '{"shared_with":["\\ud800"]}', /^shared_with\[0\] has/],
    ["POST", "/admin/users", '{"id":"\\ud800"}', /^id has/],
  ];
  for (const [method, url, payload, detail] of places)
    t.match(await send(method, url, payload), { status: 400, code: "invalid_request", detail }, payload);
  const pair = await send("POST", "/generate", '{"prompt":"\\ud83d\\ude00","max_new_tokens":0,"echo":true}');
  t.match(pair, { choices: [{ text: "\u{1f600}" }] });
});

t.test("a duplicate key is refused by name, however it is escaped", async (t) => {
  const { fastify } = await buildTestApp(t);
  const send = async (payload: string): Promise<unknown> =>
    (await fastify.inject({ method: "POST", url: "/generate", payload, headers: JSON_TYPE })).json();
  for (const [payload, key] of [
    ['{"prompt":"a","prefix_id":"nope","prefix_id":null}', "prefix_id"],
    ['{"prompt":"a","prompt" : "a"}', "prompt"],
    ['{"prompt":"a","\\u0070rompt":"b"}', "prompt"],
    ['{"prompt":"a","logit_bias":{"1":1,"2":1,"1":2}}', "1"],
    ['{"a\\"b":1,"a\\"b":1}', 'a\\"b'],
  ])
    t.match(await send(payload!), {
      status: 400,
      code: "invalid_request",
      detail: `The key "${key}" occurs twice in one object of the body.`,
    });
  t.match(await send(`{"logit_bias":{${Array.from({ length: 5000 }, (_, id) => `"${id}":1`).join()}}}`), {
    status: 400,
    detail: /more than 4096 keys/,
  });
  t.match(
    await send(`[${Array.from({ length: 2500 }, () => '{"a":1,"b":1}').join()}]`),
    { status: 400, detail: /more than 4096 keys/ },
    "of all objects together",
  );
  t.match(await send(`{"prompts":[${"[],".repeat(5000)}[]]}`), {
    status: 400,
    detail: /more than 4096 arrays and objects/,
  });
  t.match(await send(`{"${"a".repeat(2000)}":1}`), { status: 400, detail: /key of more than 1024 characters/ });
  for (const key of ["__proto__", "pro\\u0074otype"])
    t.match(await send(`{"prompt":"a","logit_bias":{"${key}":1}}`), {
      status: 400,
      code: "invalid_request",
      detail: /has the key "(__proto__|prototype)"/,
    });
  t.match(await send(`{"prompt":${"[".repeat(40)}${"]".repeat(40)}}`), {
    status: 400,
    detail: /deeper than 32 levels/,
  });
  t.match(
    await send('{"prompt":"{\\"a\\":1,\\"a\\":1}, \\\\","stop":["\\"x\\":","\\"x\\":"],"max_new_tokens":1}'),
    { choices: [{}] },
    "text is text",
  );
});

t.test("duplicate keys are found in any valid JSON", async (t) => {
  const random = seededRandom(41);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  const space = (): string => pick(["", "", " ", "\n\t "]);
  let found = 0;
  for (let round = 0; round < 3000; round++) {
    let twice = false;
    const text = (): string => JSON.stringify(pick(["a", "b", 'c"', "\\", "d:", "{", "}", "\u00e9", "a,", "]"]));
    const value = (depth: number): string => {
      const kind = depth > 3 ? 0 : Math.floor(random() * 4);
      if (kind < 2) return pick([text(), "1.5e3", "null", "true"]);
      if (kind === 2)
        return `[${Array.from({ length: Math.floor(random() * 4) }, () => space() + value(depth + 1)).join()}]`;
      const names = Array.from({ length: Math.floor(random() * 4) }, text);
      if (new Set(names).size < names.length) twice = true;
      return `{${names.map((name) => `${space()}${name}${space()}:${space()}${value(depth + 1)}`).join()}${space()}}`;
    };
    const json = value(0);
    JSON.parse(json);
    if (twice) found++;
    try {
      checkObjects(json);
      if (twice) t.fail(json);
    } catch {
      if (!twice) t.fail(json);
    }
  }
  t.ok(found > 100, `${found} with a key twice`);
});

t.test("encoded bodies are refused, uploads too; without a body the header is harmless", async (t) => {
  const { fastify, engine, registry } = await buildTestApp(t);
  const plain = JSON.stringify({ prompt: "a", max_new_tokens: 1 });
  for (const encoding of ["gzip", "br", "identity, gzip", "utf-8", "x"]) {
    const json = await fastify.inject({
      method: "POST",
      url: "/generate",
      payload: plain,
      headers: { ...JSON_TYPE, "content-encoding": encoding },
    });
    t.match(json.json(), {
      status: 415,
      code: "unsupported_media_type",
      detail: /Content-Encoding.*send the body unencoded\.$/,
    });
    t.equal(json.headers["accept-encoding"], "identity");
    const { payload, headers } = form(ADAPTER);
    t.match(
      (
        await fastify.inject({
          method: "PUT",
          url: "/prefixes/up",
          payload,
          headers: { ...headers, "content-encoding": encoding },
        })
      ).json(),
      { status: 415, code: "unsupported_media_type" },
    );
  }
  t.equal(engine.submitted.length, 0);
  await t.rejects(registry.info({ user: "local", name: "up" }, "local"), { code: "prefix_not_found" });
  for (const encoding of ["identity", " Identity ", ""])
    t.equal(
      (
        await fastify.inject({
          method: "POST",
          url: "/generate",
          payload: plain,
          headers: { ...JSON_TYPE, "content-encoding": encoding },
        })
      ).statusCode,
      200,
    );
  t.equal((await fastify.inject({ url: "/model", headers: { "content-encoding": "gzip" } })).statusCode, 200);
});

t.test(
  "repeated single-value headers, targets with an authority, and queries that are not UTF-8 or repeat a name",
  async (t) => {
    const app = await buildTestApp(t);
    const port = await app.listen();
    const ask = (head: string): Promise<string> =>
      new Promise((resolve, reject) => {
        let answer = "";
        const socket = connect(port, "127.0.0.1", () => socket.write(`${head}\r\nConnection: close\r\n\r\n`));
        socket
          .setEncoding("utf8")
          .on("data", (data: string) => (answer += data))
          .on("error", reject)
          .on("close", () => resolve(answer));
      });
    const cases: [string, RegExp][] = [
      ["GET /model HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 200 /],
      ["GET /model HTTP/1.1\r\nHost: localhost\r\nHost: evil", /^HTTP\/1\.1 400 [^]*The header host is sent twice/],
      ["GET /model HTTP/1.1\r\nHost: localhost\r\nhost: localhost", /^HTTP\/1\.1 400 /],
      [
        "GET /model HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b",
        /^HTTP\/1\.1 400 [^]*The header authorization is sent twice/,
      ],
      [
        "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 0",
        /^HTTP\/1\.1 400 [^]*content-type is sent twice/,
      ],
      [`GET http://localhost:${port}/model HTTP/1.1\r\nHost: localhost`, /^HTTP\/1\.1 200 /],
      ["GET http://localhost/model HTTP/1.1\r\nHost: evil", /^HTTP\/1\.1 200 /],
      ["GET http://evil/model HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 421 /],
      ["GET HTTP://evil?x HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 421 /],
      ["GET http://localhost@evil/model HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 421 /],
      ["DELETE http://localhost/model HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 405 /],
      ["GET /prefixes?after=%ff HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 400 [^]*not percent-encoded UTF-8/],
      ["GET /prefixes?after=%ed%a0%80 HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 400 /],
      ["GET /prefixes?after=%41 HTTP/1.1\r\nHost: localhost", /^HTTP\/1\.1 200 /],
      [
        "GET /prefixes?limit=1&limit=2 HTTP/1.1\r\nHost: localhost",
        /^HTTP\/1\.1 400 [^]*The parameter \\"limit\\" is given twice/,
      ],
      [
        "GET /prefixes?after=a&after=b HTTP/1.1\r\nHost: localhost",
        /^HTTP\/1\.1 400 [^]*The parameter \\"after\\" is given twice/,
      ],
    ];
    for (const [head, answer] of cases) t.match(await ask(head), answer, head.split("\r\n", 1)[0]!);
  },
);

t.test("null in an optional field means absent", async (t) => {
  const { fastify, registry, engine } = await buildTestApp(t, { keyed: true });
  const send = async (
    method: "POST" | "PUT" | "PATCH",
    url: string,
    payload: object,
  ): Promise<{ status: number; body: unknown }> => {
    const response = await fastify.inject({ method, url, payload, headers: { authorization: `Bearer ${ADMIN_KEY}` } });
    return { status: response.statusCode, body: response.json() };
  };
  await registry.register({ user: "admin", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2, 3) });
  await send("POST", "/admin/users", { id: "ann" });
  const bodies = [
    ["POST", "/generate", GenerateBody, { prompt: "a" }, "prompts"],
    ["POST", "/v1/completions", CompletionsBody, { model: "demo", prompt: "a" }, "max_tokens"],
    ["POST", "/tokenize", TokenizeBody, { prompt: "a" }, "model"],
    ["POST", "/detokenize", DetokenizeBody, { tokens: [1] }, "model"],
    ["PUT", "/prefixes/q", HardPromptBody, { text: "a" }, "token_ids"],
    ["PATCH", "/prefixes/p", SharingBody, { visibility: "shared" }, "shared_with"],
    ["PATCH", "/prefixes/p", SharingBody, { shared_with: [] }, "visibility"],
    ["POST", "/admin/users", CreateUserBody, { id: "bob" }, "limits"],
    ["PATCH", "/admin/users/ann", PatchUserBody, { weight: 2 }, "limits"],
    ["POST", "/admin/users/ann/keys", CreateKeyBody, {}, "expires_at"],
  ] as const;
  for (const [index, [method, url, schema, least, one]] of bodies.entries()) {
    const fields = [...new Set([...nullableFields(schema), one])].filter((name) => !Object.hasOwn(least, name));
    t.ok(fields.length > 0, url);
    const nulls = Object.fromEntries(fields.map((name) => [name, null]));
    const { status, body } = await send(method, url, { ...least, ...nulls });
    t.ok(status === 200 || status === 201, `${index} ${url}: ${JSON.stringify(body).slice(0, 200)}`);
    for (const name of fields) {
      const again = await send(method, url, {
        ...least,
        ...(url === "/admin/users" ? { id: `bob-${name}` } : {}),
        [name]: null,
      });
      t.ok(again.status === 200 || again.status === 201, `${url} ${name}: ${JSON.stringify(again.body).slice(0, 200)}`);
    }
  }
  const [plain, nulls] = [
    engine.submitted.length,
    Object.fromEntries(nullableFields(GenerateBody).map((name) => [name, null])),
  ];
  await send("POST", "/generate", { prompts: ["a"], seed: 5 });
  await send("POST", "/generate", { ...nulls, prompts: ["a"], seed: 5 });
  const [first, second] = engine.submitted.slice(plain);
  t.same({ ...first, id: "" }, { ...second, id: "" }, "the same to the engine");
  t.match(await send("POST", "/generate", nulls), { status: 400, body: { detail: /lacks "prompt"/ } });
  t.match(await send("PATCH", "/prefixes/p", { visibility: null }), { status: 400, body: { code: "invalid_request" } });
  t.match(
    await send("POST", "/admin/users", { id: null }),
    { status: 400, body: { detail: /^id must be string/ } },
    "what must be there must",
  );
  t.match(
    await send("POST", "/generate", { prompt: "a", stop: [null] }),
    { status: 400, body: { detail: /^stop\[0\]/ } },
    "an item is no field",
  );
  t.match(await send("PATCH", "/admin/users/ann", { limits: { max_prefixes: 3 } }), {
    body: { limits: { max_prefixes: 3 } },
  });
  t.match(
    await send("PATCH", "/admin/users/ann", { limits: { max_prefixes: null } }),
    { body: { limits: { max_prefixes: null } } },
    "no limit",
  );
});

t.test("a list of prompts in `prompt` is told to use `prompts`", async (t) => {
  const { fastify } = await buildTestApp(t);
  for (const prompt of [
    ["a", "b"],
    [[1, 2], [3]],
  ])
    t.match((await fastify.inject(post("/generate", { prompt }))).json(), {
      code: "invalid_parameter",
      detail: /^prompt\[0\] must be integer; several prompts go into prompts\.$/,
    });
});
