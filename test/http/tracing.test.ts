import { once } from "node:events";
import { createRequire } from "node:module";
import { connect } from "node:net";
import t, { type Test } from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { openTracing, tracesWanted } from "../../src/observability/tracing/open.ts";
import { ADMIN_KEY, buildTestApp, post, until, type TestApp } from "../support/app.ts";
import { freePort } from "../support/free-port.ts";
import { OtlpReceiver, type ReceivedSpan } from "../support/otlp-receiver.ts";

const ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACE = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER = "00f067aa0ba902b7";
const traceparent = (sampled: boolean): string => `00-${TRACE}-${SENDER}-0${sampled ? 1 : 0}`;
const PROMPT = "a secret that nobody else may read";

/** The SDK reads the process's own variables. */
function setVariables(t: Test, variables: Record<string, string>): void {
  Object.assign(process.env, variables);
  t.teardown(() => {
    for (const name of Object.keys(variables)) delete process.env[name];
  });
}

interface Traced {
  readonly app: TestApp;
  readonly receiver: OtlpReceiver;
  /** Exports what has ended, and returns all that came. Call once, at the end. */
  readonly spans: () => Promise<ReceivedSpan[]>;
}

async function traced(t: Test, variables: Record<string, string> = {}, keyed = false): Promise<Traced> {
  const receiver = await OtlpReceiver.start();
  t.teardown(() => receiver.close());
  setVariables(t, { [ENDPOINT]: receiver.url, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json", ...variables });
  const tracing = (await openTracing(process.env, createLogger("silent")))!;
  const app = await buildTestApp(t, { tracing, keyed });
  const spans = async (): Promise<ReceivedSpan[]> => {
    await tracing.close();
    return receiver.spans;
  };
  return { app, receiver, spans };
}

/** The access log's lines, once there are so many. */
async function accessLines({ logs }: TestApp, count = 1): Promise<Record<string, unknown>[]> {
  const lines = (): string[] => logs.filter((line) => line.includes('"msg":"request"'));
  await until(() => lines().length >= count);
  return lines().map((line) => JSON.parse(line) as Record<string, unknown>);
}

const loaded = (): boolean =>
  Object.keys(createRequire(import.meta.url).cache).some((file) => file.includes("@opentelemetry/sdk-trace"));

t.test("without an endpoint nothing is traced, and none of the SDK is loaded", async (t) => {
  t.equal(await openTracing({}, createLogger("silent")), null);
  const app = await buildTestApp(t, { tracing: null });
  const response = await app.fastify.inject({
    ...post("/generate", { prompt: "a" }),
    headers: { traceparent: traceparent(true) },
  });
  t.equal(response.statusCode, 200);
  const missing = await app.fastify.inject(post("/prefixes/none/generate", { prompt: "a" }));
  t.notOk("trace_id" in missing.json<object>());
  for (const line of await accessLines(app, 2)) t.notOk("trace_id" in line);
  t.notOk(loaded());
});

t.test("OpenTelemetry's variables", async (t) => {
  const url = { [ENDPOINT]: "http://127.0.0.1:4318" };
  t.equal(tracesWanted(url), "http/protobuf");
  t.equal(tracesWanted({ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://a.example/v1/traces" }), "http/protobuf");
  t.equal(tracesWanted({ ...url, OTEL_EXPORTER_OTLP_PROTOCOL: "http/json" }), "http/json");
  t.equal(tracesWanted({ ...url, OTEL_SDK_DISABLED: "true" }), null);
  t.equal(tracesWanted({ ...url, OTEL_TRACES_EXPORTER: "none" }), null);
  t.equal(tracesWanted({ [ENDPOINT]: "" }), null);
  for (const exporters of ["", "otlp", "console, otlp"])
    t.equal(tracesWanted({ ...url, OTEL_TRACES_EXPORTER: exporters }), "http/protobuf", exporters);
  t.throws(() => tracesWanted({ ...url, OTEL_TRACES_EXPORTER: "jaeger" }), {
    message: "OTEL_TRACES_EXPORTER jaeger: expected otlp or none",
  });
  t.throws(() => tracesWanted({ ...url, OTEL_EXPORTER_OTLP_PROTOCOL: "grpc" }), {
    message: "OTEL_EXPORTER_OTLP_PROTOCOL grpc: expected http/protobuf or http/json",
  });
  for (const bad of ["127.0.0.1:4318", "ftp://a", "http://", "http://user:secret@"])
    t.throws(() => tracesWanted({ [ENDPOINT]: bad }), {
      message: `${ENDPOINT}: expected a URL such as http://127.0.0.1:4318`,
    });
});

t.test(
  "a request is a span of its sender's trace, its phases are children, and nothing of its content leaves",
  async (t) => {
    const { app, receiver, spans } = await traced(
      t,
      { OTEL_SERVICE_NAME: "front", OTEL_RESOURCE_ATTRIBUTES: "zone=b" },
      true,
    );
    const response = await fetch(`http://127.0.0.1:${await app.listen()}/generate`, {
      method: "POST",
      body: JSON.stringify({
        prompt: PROMPT,
        max_new_tokens: 3,
        n: 2,
        do_sample: true,
        temperature: 0.5,
        seed: 7,
        stop: ["confidential"],
      }),
      headers: {
        "content-type": "application/json",
        traceparent: traceparent(true),
        authorization: `Bearer ${ADMIN_KEY}`,
      },
    });
    t.equal(response.status, 200);
    const { choices } = (await response.json()) as { choices: { text: string }[] };
    const [line] = await accessLines(app);
    t.match(line, { trace_id: TRACE, span_id: /^[\da-f]{16}$/ });
    t.ok(loaded());

    const all = await spans();
    const server = all.find(({ kind }) => kind === 2)!;
    t.match(server, { name: "POST /generate", traceId: TRACE, parentSpanId: SENDER, status: 0 });
    t.equal(line!["span_id"], server.spanId);
    t.same(server.attributes, {
      "http.request.method": "POST",
      "http.route": "/generate",
      "url.scheme": "http",
      "http.response.status_code": 200,
      "gen_ai.operation.name": "text_completion",
      "gen_ai.provider.name": "prefixd",
      "gen_ai.request.model": "demo",
      "gen_ai.request.max_tokens": 3,
      "gen_ai.request.seed": 7,
      "gen_ai.request.stream": false,
      "gen_ai.request.choice.count": 2,
      "gen_ai.request.temperature": 0.5,
      "gen_ai.request.top_p": 1,
      "gen_ai.request.top_k": 50,
      "gen_ai.usage.input_tokens": PROMPT.length,
      "gen_ai.usage.output_tokens": 6,
      "gen_ai.response.finish_reasons": ["length", "length"],
      "prefixd.usage.prefix_tokens": 0,
      "prefixd.request.prefixed": false,
      "prefixd.request.prompts": 1,
      "prefixd.request.structured": false,
      "prefixd.request_id": response.headers.get("x-request-id"),
    });
    const phases = ["queue", "prefill", "decode"].map((name) => all.find((span) => span.name === name)!);
    t.equal(all.length, 4);
    let at = server.start;
    for (const { name, parentSpanId, traceId, start, end, kind, status } of phases) {
      t.same([parentSpanId, traceId, kind, status], [server.spanId, TRACE, 1, 0], name);
      t.ok(start >= at && end >= start, `${name} follows`);
      at = end;
    }
    t.ok(server.end >= at);
    t.match(receiver.resources[0], { "service.name": "front", zone: "b", "service.version": String });
    const secrets = [PROMPT, "secret", "confidential", ADMIN_KEY, ...choices.map(({ text }) => text)];
    for (const { body } of receiver.received)
      for (const secret of secrets) t.notOk(body.includes(secret), "no prompt, text, stop string or key");
  },
);

t.test("streams, and what OpenAI's clients send, end when the last byte has gone", async (t) => {
  const { app, spans } = await traced(t);
  const port = await app.listen();
  const body = JSON.stringify({ model: "demo", prompt: "abc", max_tokens: 4, stream: true });
  const response = await fetch(`http://127.0.0.1:${port}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body,
  });
  await response.text();
  await accessLines(app);
  const all = await spans();
  t.same(all.map(({ name }) => name).sort(), ["POST /v1/completions", "decode", "prefill", "queue"]);
  const server = all.find(({ kind }) => kind === 2)!;
  t.match(server.attributes, {
    "gen_ai.request.stream": true,
    "gen_ai.usage.output_tokens": 4,
    "gen_ai.response.finish_reasons": ["length"],
  });
  t.equal(server.parentSpanId, "", "no trace was named, so this is one");
});

t.test("a refused request: the client's fault is no error of the server's, and has no phases", async (t) => {
  const { app, spans } = await traced(t);
  const response = await app.fastify.inject(post("/prefixes/none/generate", { prompt: "a" }));
  await accessLines(app);
  const [span, ...others] = await spans();
  t.same(others, []);
  t.match(response.json(), { code: "prefix_not_found", trace_id: span!.traceId });
  t.match(span, {
    name: "POST /prefixes/:id/generate",
    status: 0,
    attributes: { "http.response.status_code": 404, "error.type": "prefix_not_found" },
  });
});

t.test("a failed request, before its answer and in its stream", async (t) => {
  const { app, spans } = await traced(t);
  app.engine.stepMs = null;
  const failed = app.fastify.inject(post("/generate", { prompt: "abc" }));
  await until(() => app.engine.submitted.length === 1);
  app.engine.failAll(new PrefixdError("model_failed", "The model failed."));
  const { code, trace_id } = (await failed).json<{ code: string; trace_id: string }>();
  t.equal(code, "model_failed");

  const streamed = app.fastify.inject(post("/generate", { prompt: "abc", stream: true }));
  await until(() => app.engine.submitted.length === 2);
  app.engine.step();
  await new Promise(setImmediate);
  app.engine.failAll(new PrefixdError("device_lost", "The device is lost."));
  const stream = (await streamed).body;
  t.match(stream, /event: error\ndata: .*"trace_id":"[\da-f]{32}"/);
  await accessLines(app, 2);

  const all = await spans();
  const server = all.filter(({ kind }) => kind === 2);
  t.match(server, [
    { traceId: trace_id, status: 2, attributes: { "http.response.status_code": 500, "error.type": "model_failed" } },
    { status: 2, attributes: { "http.response.status_code": 200, "error.type": "device_lost" } },
  ]);
  const children = (of: ReceivedSpan): unknown[] =>
    all.filter(({ parentSpanId }) => parentSpanId === of.spanId).map(({ name, status }) => [name, status]);
  t.same(children(server[0]!), [["queue", 2]], "it ended in the queue");
  t.same(
    children(server[1]!),
    [
      ["queue", 0],
      ["prefill", 0],
      ["decode", 2],
    ],
    "it ended while it was decoded",
  );
});

t.test("a client that leaves: how far it came, and no error", async (t) => {
  const { app, spans } = await traced(t);
  app.engine.stepMs = null;
  const port = await app.listen();
  const body = JSON.stringify({ prompt: "abc", stream: true });
  const socket = connect(port, "127.0.0.1");
  socket.write(
    `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  await once(socket, "data");
  socket.destroy();
  await accessLines(app);
  const all = await spans();
  t.match(
    all.find(({ kind }) => kind === 2),
    {
      status: 0,
      attributes: { "error.type": "cancelled", "gen_ai.usage.output_tokens": 1 },
    },
  );
  t.same(
    all.filter(({ kind }) => kind === 1).map(({ name }) => name),
    ["queue", "prefill", "decode"],
  );
});

t.test("probes and feeds are not traced, nor what its sender does not sample; the log has the ids", async (t) => {
  const { app, spans } = await traced(t);
  for (const url of ["/health/live", "/health/ready", "/metrics", "/docs", "/", "/openapi.yaml", "/nowhere"])
    await app.fastify.inject(url);
  app.logs.length = 0;
  await app.fastify.inject({ ...post("/generate", { prompt: "a" }), headers: { traceparent: traceparent(false) } });
  const [line] = await accessLines(app);
  t.match(line, { trace_id: TRACE });
  t.same(await spans(), []);
});

t.test("the sampler, headers and protobuf are OpenTelemetry's", async (t) => {
  const { app, receiver, spans } = await traced(t, {
    OTEL_EXPORTER_OTLP_PROTOCOL: "",
    OTEL_EXPORTER_OTLP_HEADERS: "api-key=abc",
    OTEL_TRACES_SAMPLER: "always_on",
  });
  await app.fastify.inject({ ...post("/generate", { prompt: "a" }), headers: { traceparent: traceparent(false) } });
  const all = await spans();
  t.match(receiver.received[0], {
    path: "/v1/traces",
    headers: { "content-type": "application/x-protobuf", "api-key": "abc" },
  });
  t.same(all.map(({ name }) => name).sort(), ["POST /generate", "decode", "prefill", "queue"]);
  const server = all.find(({ kind }) => kind === 2)!;
  t.match(server, { traceId: TRACE, parentSpanId: SENDER, attributes: { "gen_ai.usage.input_tokens": 1 } });
  t.equal(receiver.resources[0]!["service.name"], "prefixd");
});

t.test("a collector that is away ends nothing, and is told of once", async (t) => {
  setVariables(t, {
    [ENDPOINT]: `http://127.0.0.1:${await freePort()}`,
    OTEL_EXPORTER_OTLP_TIMEOUT: "100",
    OTEL_BSP_SCHEDULE_DELAY: "10",
  });
  const warnings: string[] = [];
  const tracing = (await openTracing(
    process.env,
    createLogger("warn", { write: (line: string) => void warnings.push(line) }),
  ))!;
  const app = await buildTestApp(t, { tracing });
  for (let i = 0; i < 3; i++) t.equal((await app.fastify.inject(post("/generate", { prompt: "a" }))).statusCode, 200);
  await tracing.close();
  await until(() => warnings.some((line) => line.includes("spans could not be exported")));
  t.equal(warnings.filter((line) => line.includes("spans could not be exported")).length, 1);
});

t.test("a stop says that the last spans found nobody", async (t) => {
  setVariables(t, { [ENDPOINT]: `http://127.0.0.1:${await freePort()}` });
  const warnings: string[] = [];
  const tracing = (await openTracing(
    process.env,
    createLogger("warn", { write: (line: string) => void warnings.push(line) }),
  ))!;
  tracing.begin("GET /x", {}, {}).end(performance.now(), null);
  await tracing.close();
  t.match(warnings, [/the last spans were not exported/]);
});
