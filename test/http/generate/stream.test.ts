import { request } from "node:http";
import { connect } from "node:net";
import t from "tap";
import { Compile } from "typebox/compile";
import { PrefixdError } from "../../../src/errors.ts";
import { STREAM_DEFAULTS } from "../../../src/http/app-parts.ts";
import { GenerateEvent, GenerateLastEvent } from "../../../src/http/generate/answer-schema.ts";
import { buildTestApp, until } from "../../support/app.ts";
import { open, parseSse, raw, readAll } from "../../support/fake-client.ts";

const STREAM = { prompt: "ab", stream: true, max_new_tokens: 3 };

t.test("one event per step, a last one with usage, then [DONE]", async (t) => {
  const app = await buildTestApp(t);
  const response = await open(await app.listen(), "/generate", { ...STREAM, seed: 9, logprobs: 0 });
  t.match(response.headers, {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
    "x-request-id": String,
    "x-content-type-options": "nosniff",
  });
  const events = parseSse(await readAll(response)).map(({ data }) => data);
  t.equal(events.pop(), "[DONE]");
  const parsed = events.map((data) => JSON.parse(data) as object);
  t.match(parsed, [
    {
      choices: [
        {
          index: 0,
          text: "c",
          token_ids: [99],
          logprobs: { token_logprobs: [-0.5], top_logprobs: [[]] },
          finish_reason: null,
        },
      ],
    },
    { object: "generation.step", choices: [{ index: 0, text: "d", token_ids: [100], finish_reason: null }] },
    {
      object: "generation.end",
      choices: [{ index: 0, text: "e", token_ids: [101], finish_reason: "length" }],
      id: /^gen-/,
      prefix: null,
      model: "demo",
      usage: { prefix_tokens: 0, prompt_tokens: 2, completion_tokens: 3 },
      seed: 9,
    },
  ]);
  t.same([...Compile(GenerateEvent).Errors(parsed[0]), ...Compile(GenerateLastEvent).Errors(parsed[2])], []);
});

t.test("choices of one step share an event; each has its own finish reason", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = (_request, choice, k) => (choice === 0 && k === 1 ? 256 : 65 + choice);
  const response = await open(await app.listen(), "/generate", {
    ...STREAM,
    n: 2,
    do_sample: true,
    return_token_ids: false,
  });
  const events = parseSse(await readAll(response))
    .slice(0, -1)
    .map(({ data }) => JSON.parse(data) as object);
  t.match(events, [
    {
      choices: [
        { index: 0, text: "A", finish_reason: null },
        { index: 1, text: "B", finish_reason: null },
      ],
    },
    {
      choices: [
        { index: 0, text: "", finish_reason: "eos" },
        { index: 1, text: "B", finish_reason: null },
      ],
    },
    { choices: [{ index: 1, text: "B", finish_reason: "length" }], usage: { completion_tokens: 5 } },
  ]);
  t.notMatch(events, [{ choices: [{ token_ids: [] }] }]);
});

t.test("an echoed prompt comes with the first event; a stop string in it ends nothing", async (t) => {
  const app = await buildTestApp(t);
  const response = await open(await app.listen(), "/generate", {
    ...STREAM,
    echo: true,
    logprobs: 0,
    n: 2,
    do_sample: true,
    stop: "ab",
  });
  const events = parseSse(await readAll(response))
    .slice(0, -1)
    .map(({ data }) => JSON.parse(data) as object);
  t.same(Compile(GenerateEvent).Errors(events[0]), []);
  t.match(events, [
    {
      choices: [
        {
          index: 0,
          text: "abc",
          token_ids: [97, 98, 99],
          logprobs: { token_logprobs: [null, -0.25, -0.5], top_logprobs: [[], [], []] },
        },
        { index: 1, text: "abd" },
      ],
    },
    { choices: [{ text: "d", token_ids: [100], logprobs: { token_logprobs: [-0.5] } }, { text: "e" }] },
    { choices: [{ text: "e", finish_reason: "length" }, {}] },
  ]);
});

t.test("text held back for a stop string is not sent; a step with nothing to show sends nothing", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = (_request, _choice, k) => "a. b".charCodeAt(k);
  const response = await open(await app.listen(), "/generate", {
    ...STREAM,
    max_new_tokens: 4,
    stop: ". b",
    return_token_ids: false,
  });
  const events = parseSse(await readAll(response))
    .slice(0, -1)
    .map(({ data }) => JSON.parse(data) as { choices: { text: string; finish_reason: string }[] });
  t.match(events, [{ choices: [{ text: "a" }] }, { choices: [{ text: "", finish_reason: "stop" }] }]);
});

t.test("a failure before the first event is an ordinary error answer", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const cases: [object, number][] = [
    [{ ...STREAM, prefix_id: "none" }, 404],
    [{ ...STREAM, max_new_tokens: 64 }, 422],
    [{ ...STREAM, prompt: "" }, 400],
  ];
  for (const [body, status] of cases) {
    const response = await open(port, "/generate", body);
    t.equal(response.statusCode, status);
    t.equal(response.headers["content-type"], "application/problem+json");
    await readAll(response);
  }
  app.engine.stepMs = null;
  const response = open(port, "/generate", STREAM);
  await until(() => app.engine.submitted.length === 1);
  app.engine.failAll(new PrefixdError("model_failed", "SECRET"));
  t.equal((await response).statusCode, 500);
  t.notMatch(await readAll(await response), /SECRET/);
});

t.test("an error in mid-stream is one error event, masked as elsewhere", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const pending = open(await app.listen(), "/generate", STREAM, { "x-request-id": "mine" });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const response = await pending;
  app.engine.failAll(new PrefixdError("model_failed", "SECRET"));
  const text = await readAll(response);
  const [first, last, ...more] = parseSse(text);
  t.match(JSON.parse(first?.data ?? ""), { choices: [{ text: "c" }] });
  t.equal(last?.event, "error");
  t.match(JSON.parse(last?.data ?? ""), { status: 500, code: "model_failed", request_id: "mine" });
  t.same(more, []);
  t.notMatch(text, /SECRET/);
  t.ok(app.logs.some((line) => line.includes("SECRET") && line.includes('"request_id":"mine"')));
});

t.test("a removed prefix ends its stream with finish_reason removed", async (t) => {
  const app = await buildTestApp(t);
  await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1) });
  app.engine.stepMs = null;
  const pending = open(await app.listen(), "/prefixes/p/generate", STREAM);
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const response = await pending;
  t.equal((await app.fastify.inject({ method: "DELETE", url: "/prefixes/p" })).statusCode, 204);
  const events = parseSse(await readAll(response));
  t.match(JSON.parse(events[1]?.data ?? ""), {
    choices: [{ text: "", token_ids: [], finish_reason: "removed" }],
    usage: { completion_tokens: 1 },
  });
  t.equal(events[2]?.data, "[DONE]");
});

t.test("a client that leaves frees the engine at once, streaming or not, running or queued", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const port = await app.listen();
  for (const [i, body] of [STREAM, { ...STREAM, stream: false }].entries()) {
    const outgoing = request({
      agent: false,
      host: "127.0.0.1",
      port,
      path: "/generate",
      method: "POST",
      headers: { "content-type": "application/json" },
    });
    outgoing.on("error", () => undefined).end(JSON.stringify(body));
    await until(() => app.engine.submitted.length === i + 1);
    outgoing.destroy();
    await until(() => app.engine.cancelled.length === i + 1);
  }
  const response = await (async () => {
    const pending = open(port, "/generate", STREAM);
    await until(() => app.engine.submitted.length === 3);
    app.engine.step();
    return pending;
  })();
  response.destroy();
  await until(() => app.engine.cancelled.length === 3);
  await until(() => app.logs.filter((line) => line.includes('"aborted":true')).length === 3);
  t.match(await app.metrics.render(), /prefixd_requests_total\{outcome="cancelled"\} 3\n/);
  t.match(
    await app.metrics.render(),
    /prefixd_http_requests_total\{method="POST",route="\/generate",status="aborted"\} 3\n/,
  );
});

t.test("a client that does not read is cut off, and its request cancelled", async (t) => {
  const app = await buildTestApp(t, { stream: { ...STREAM_DEFAULTS, bufferLimit: 64 * 1024 } });
  // Enough steps to fill the kernel's buffers too; the fake engine does not mind the context.
  app.engine.stepMs = null;
  const port = await app.listen();
  const socket = connect(port, "127.0.0.1");
  t.teardown(() => socket.destroy());
  socket.on("error", () => undefined).pause();
  const body = JSON.stringify({ ...STREAM, max_new_tokens: 60, logprobs: 20, n: 4, do_sample: true });
  socket.write(
    `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await until(() => app.engine.submitted.length === 1);
  app.engine.script = (_request, _choice, k) => k % 256;
  const [only] = app.engine.submitted;
  Object.assign(only ?? {}, { maxNewTokens: Infinity });
  const end = performance.now() + 10_000;
  while (app.engine.cancelled.length === 0 && performance.now() < end) {
    for (let i = 0; i < 100; i++) {
      app.engine.step();
      await Promise.resolve();
    }
    await new Promise(setImmediate);
  }
  t.equal(app.engine.cancelled.length, 1);
  t.match(await app.metrics.render(), /prefixd_requests_total\{outcome="too_slow"\} 1\n/);
});

t.test("heartbeats open the stream while the request waits", async (t) => {
  const app = await buildTestApp(t, { stream: { ...STREAM_DEFAULTS, heartbeatMs: 20 } });
  app.engine.stepMs = null;
  const response = await open(await app.listen(), "/generate", STREAM);
  t.equal(response.statusCode, 200);
  app.engine.failAll(new PrefixdError("model_failed", "boom"));
  const text = await readAll(response);
  t.match(text, /^: keep-alive\n\n/);
  t.match(parseSse(text), [{ event: "error", data: /model_failed/ }]);
});

t.test("garbage and endless headers get a plain answer and no crash", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  t.match(
    await raw(port, "\x16\x03\x01\x02\x00garbage\r\n\r\n"),
    /^HTTP\/1\.1 400 Bad Request\r\n[^]*"code":"invalid_request"/,
  );
  t.match(
    await raw(port, `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${"a".repeat(20_000)}\r\n\r\n`),
    /^HTTP\/1\.1 431 [^]*"code":"headers_too_large"/,
  );
  t.match(
    await raw(port, `HEAD / HTTP/1.1\r\nHost: localhost\r\nX: ${"a".repeat(20_000)}\r\n\r\n`),
    /^HTTP\/1\.1 431 [^]*\r\n\r\n$/,
    "an answer to HEAD has no body",
  );
  t.match(
    await raw(
      port,
      "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    /^HTTP\/1\.1 400 /,
  );
  t.match(
    await raw(port, "GET /health/live HTTP/1.1\r\nConnection: close\r\n\r\n"),
    /^HTTP\/1\.1 400 [^]*"code":"invalid_request"/,
    "HTTP/1.1 without Host",
  );
  t.match(await raw(port, "GET /health/live HTTP/1.0\r\n\r\n"), /^HTTP\/1\.1 200 OK/, "HTTP/1.0 has none");
  t.match(
    await raw(port, "GET /health/live HTTP/1.1\r\nHost: localhost\r\nExpect: more\r\nConnection: close\r\n\r\n"),
    /^HTTP\/1\.1 200 OK/,
    "an Expect that is not known",
  );
  t.match(
    await raw(port, "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    /^HTTP\/1\.1 200 OK/,
  );
});

t.test("a large upload that is refused early still gets its answer", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const answer = await new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
    const outgoing = request(
      {
        agent: false,
        host: "127.0.0.1",
        port,
        path: "/prefixes/p",
        method: "PUT",
        headers: { "content-type": "multipart/form-data; boundary=b", "transfer-encoding": "chunked" },
      },
      (response) => {
        void readAll(response).then((text) => resolve({ status: response.statusCode, text }));
      },
    );
    outgoing.on("error", reject);
    outgoing.write('--b\r\nContent-Disposition: form-data; name="f"; filename="adapter_model.safetensors"\r\n\r\n');
    for (let i = 0; i < 64; i++) outgoing.write(Buffer.alloc(256 * 1024));
    outgoing.end("\r\n--b--\r\n");
  });
  t.equal(answer.status, 413);
  t.match(JSON.parse(answer.text), { code: "body_too_large" });
});

t.test("prompts, texts and credentials never reach the log", async (t) => {
  const app = await buildTestApp(t);
  await app.registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1) });
  app.engine.script = (_request, _choice, k) => "GENERATEDSECRET".charCodeAt(k % 15);
  const port = await app.listen();
  const headers = { authorization: "Bearer KEYSECRET", cookie: "KEYSECRET" };
  const bodies = [
    { prompt: "PROMPTSECRET", max_new_tokens: 20 },
    { prompt: "PROMPTSECRET", stream: true },
    { prompt: "PROMPTSECRET", stop: ["STOPSECRET"], bogus: 1 },
    { prompts: ["PROMPTSECRET", "PROMPTSECRET".repeat(10)] },
  ];
  for (const body of bodies) await readAll(await open(port, "/prefixes/p/generate?q=QUERYSECRET", body, headers));
  await app.fastify.inject({ method: "PUT", url: "/prefixes/q", payload: { text: "PROMPTSECRET" }, headers });
  app.engine.script = () => {
    throw new Error("broken");
  };
  await until(() => app.logs.length >= 5);
  t.notMatch(app.logs.join(""), /SECRET/);
  t.match(JSON.parse(app.logs.find((line) => line.includes('"msg":"request"')) ?? ""), {
    level: "info",
    method: "POST",
    route: "/prefixes/:id/generate",
    status: 200,
    ms: Number,
    request_id: String,
    prefix_id: "p",
    prefix_tokens: 1,
    prompt_tokens: 12,
    completion_tokens: 20,
  });
});
