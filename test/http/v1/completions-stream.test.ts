/** Streams of completions. */
import t from "tap";
import { Compile } from "typebox/compile";
import type { TokenConstraint } from "../../../src/engine/constraint.ts";
import { PrefixdError } from "../../../src/errors.ts";
import { STREAM_DEFAULTS } from "../../../src/http/app-parts.ts";
import { CompletionsChunk } from "../../../src/http/v1/completions-schema.ts";
import { OpenAiError } from "../../../src/http/v1/errors.ts";
import { buildTestApp, until, type TestApp } from "../../support/app.ts";
import { open, parseSse, readAll } from "../../support/fake-client.ts";
import { withPrefix } from "../generate/with-prefix.ts";
import { BASE, complete, type Completion, URL } from "./complete.ts";

const [chunk, problem] = [Compile(CompletionsChunk), Compile(OpenAiError)];

async function streamed(app: TestApp, body: object): Promise<string[]> {
  const answer = await open(await app.listen(), URL, { ...BASE, stream: true, ...body });
  return parseSse(await readAll(answer)).map(({ event, data }) => (event === "message" ? data : `${event}: ${data}`));
}

t.test("a stream is whole chunks without event names, then [DONE]", async (t) => {
  const app = await buildTestApp(t);
  const events = await streamed(app, { logprobs: 1 });
  t.equal(events.pop(), "[DONE]");
  const chunks = events.map((data) => JSON.parse(data) as { id: string });
  t.same(
    chunks.flatMap((one) => [...chunk.Errors(one)]),
    [],
  );
  t.equal(new Set(chunks.map(({ id }) => id)).size, 1);
  t.match(chunks, [
    {
      object: "text_completion",
      created: Number,
      model: "demo",
      choices: [{ index: 0, text: "c", finish_reason: null }],
    },
    { choices: [{ text: "d", logprobs: { tokens: ["d"], text_offset: [1], top_logprobs: [{ d: -0.5 }] } }] },
    { choices: [{ text: "e", finish_reason: "length" }] },
  ]);
  t.equal(chunks.length, 3);
  t.notMatch(chunks, [{ usage: {} }]);
});

t.test("with include_usage, usage is null in every chunk, and one more chunk has it", async (t) => {
  const app = await buildTestApp(t);
  const events = await streamed(app, { stream_options: { include_usage: true } });
  t.equal(events.pop(), "[DONE]");
  const chunks = events.map((data) => JSON.parse(data) as { choices: object[]; usage: object | null });
  t.same(
    chunks.flatMap((one) => [...chunk.Errors(one)]),
    [],
  );
  t.same(
    chunks.map(({ usage, choices }) => [usage, choices.length]),
    [
      [null, 1],
      [null, 1],
      [null, 1],
      [{ prompt_tokens: 2, completion_tokens: 3, total_tokens: 5, prefix_tokens: 0 }, 0],
    ],
  );
});

t.test("a long echo comes in several chunks that add up to the whole", async (t) => {
  const app = await buildTestApp(t, {
    shape: { layers: 1, heads: 2, headDim: 4, width: 8, positions: 8192, vocabSize: 257 },
  });
  const body = { prompt: "a".repeat(60), n: 4, echo: true, logprobs: 20, max_tokens: 1 };
  const events = await streamed(app, { ...body, stream_options: { include_usage: true } });
  const chunks = events.slice(0, -1).map((data) => JSON.parse(data) as Completion);
  t.ok(chunks.length > 2);
  const whole = await complete(app, { ...BASE, ...body });
  for (const [index, { text, logprobs }] of whole.choices.entries()) {
    const parts = chunks.flatMap(({ choices }) => choices.filter((one) => one.index === index));
    t.equal(parts.map((part) => part.text).join(""), text);
    t.same(
      parts.flatMap((part) => part.logprobs.text_offset),
      logprobs.text_offset,
    );
  }
});

t.test("an error in mid-stream is an unnamed event, masked as elsewhere, without [DONE]", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const pending = open(await app.listen(), URL, { ...BASE, stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const answer = await pending;
  app.engine.failAll(new PrefixdError("model_failed", "SECRET"));
  const events = parseSse(await readAll(answer));
  t.same(
    events.map(({ event }) => event),
    ["message", "message"],
  );
  const error = JSON.parse(events[1]!.data) as object;
  t.same([...problem.Errors(error)], []);
  t.match(error, { error: { type: "server_error", code: "model_failed", param: null, message: /its log has/ } });
  t.notMatch(events[1]!.data, /SECRET/);
});

t.test("a removed prefix ends its stream with an error, as the API has no finish reason for it", async (t) => {
  const app = await withPrefix(t);
  app.engine.stepMs = null;
  const pending = open(await app.listen(), URL, { ...BASE, model: "p", stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const answer = await pending;
  t.equal((await app.fastify.inject({ method: "DELETE", url: "/prefixes/p" })).statusCode, 204);
  const events = parseSse(await readAll(answer)).map(({ data }) => data);
  t.match(events, [/"text":"c"/, /"code":"removed"/]);
  t.equal(events.length, 2);
  t.match(await app.metrics.render(), /prefixd_requests_total\{outcome="removed"\} 1\n/);
});

t.test("a lost lease ends a stream with an error of the same shape", async (t) => {
  let leased = true;
  const app = await buildTestApp(t, { stream: { ...STREAM_DEFAULTS, mayEmit: () => leased } });
  app.engine.stepMs = null;
  const pending = open(await app.listen(), URL, { ...BASE, stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const answer = await pending;
  leased = false;
  app.engine.step();
  t.match(parseSse(await readAll(answer)), [{}, { event: "message", data: /^\{"error":.*"store_unavailable"/ }]);
});

t.test("a client that leaves frees the engine", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const pending = open(await app.listen(), URL, { ...BASE, stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  (await pending).destroy();
  await until(() => app.engine.cancelled.length === 1);
  await until(() => app.logs.some((line) => line.includes('"aborted":true')));
  t.match(await app.metrics.render(), /prefixd_requests_total\{outcome="cancelled"\} 1\n/);
});

t.test("structured_outputs, whole and streamed: the leading space is no part of the text", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = (_request, _choice, k) => " no".charCodeAt(k);
  const body = { ...BASE, structured_outputs: { choice: ["yes", "no"] } };
  t.match(await complete(app, body), { choices: [{ text: "no" }] });
  const { constraint } = app.engine.submitted[0]!;
  const allowed = (at: TokenConstraint): string =>
    Array.from({ length: 256 }, (_, id) => id)
      .filter((id) => at.allows(id))
      .map((id) => String.fromCharCode(id))
      .join("");
  t.equal(allowed(constraint!), " ny");
  t.equal(allowed(constraint!.after(32)), "ny");
  t.ok(constraint!.after(110).after(111).final);
  const chunks = (await streamed(app, body)).slice(0, -1).map((data) => JSON.parse(data) as Completion);
  t.equal(chunks.map(({ choices }) => choices[0]!.text).join(""), "no");
  const late = complete(app, { ...body, structured_outputs: { choice: ["yes", "no"], leading_space: false } });
  await until(() => app.engine.submitted.length === 3);
  t.equal(allowed(app.engine.submitted[2]!.constraint!), "ny");
  await late;
});

t.test("a constraint that takes too much work in mid-stream: an event with its code and field", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const body = { ...BASE, stream: true, structured_outputs: { regex: "[a-z]+" } };
  const pending = open(await app.listen(), URL, body);
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const answer = await pending;
  app.engine.failAll(new PrefixdError("constraint_too_complex", "It takes too much work."));
  const [first, last, ...more] = parseSse(await readAll(answer)).map(({ data }) => JSON.parse(data) as object);
  t.match(first, { choices: [{ text: "c" }] });
  t.match(last, { error: { code: "constraint_too_complex", param: "structured_outputs", message: /too much work/ } });
  t.equal(more.length, 0);
});
