/** OpenAI's own client, and Vercel's for servers like this one, over real sockets. */
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, generateText, streamText } from "ai";
import OpenAI from "openai";
import t from "tap";
import { PrefixdError } from "../../../src/errors.ts";
import { ADMIN_KEY, buildTestApp, until, type TestApp } from "../../support/app.ts";

const HARD = { kind: "hard", ids: Int32Array.of(1, 2, 3) } as const;
const ASK = { model: "p", prompt: "ab", max_tokens: 3 };

async function served(t: Parameters<typeof buildTestApp>[0]): Promise<{ app: TestApp; openai: OpenAI; url: string }> {
  const app = await buildTestApp(t, { keyed: true });
  await app.registry.register({ user: "admin", name: "p" }, HARD);
  const url = `http://127.0.0.1:${await app.listen()}/v1`;
  return { app, url, openai: new OpenAI({ baseURL: url, apiKey: ADMIN_KEY, maxRetries: 0 }) };
}

/** The error that a call ends with. */
const errorOf = (call: Promise<unknown>): Promise<unknown> =>
  call.then(
    () => null,
    (error: unknown) => error,
  );

t.test("openai: answers, streams and usage", async (t) => {
  const { openai } = await served(t);
  const whole = await openai.completions.create({ ...ASK, logprobs: 1, echo: true });
  t.match(whole, {
    object: "text_completion",
    choices: [{ text: "abcde", finish_reason: "length", logprobs: { tokens: ["a", "b", "c", "d", "e"] } }],
    usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 },
  });
  t.match(whole._request_id, /^[0-9a-f]{16}$/);
  const stream = await openai.completions.create({ ...ASK, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let usage: OpenAI.CompletionUsage | null | undefined;
  for await (const { choices, usage: told } of stream) {
    text += choices.map((choice) => choice.text).join("");
    usage = told ?? usage;
  }
  t.equal(text, "cde");
  t.match(usage, { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 });
});

t.test("openai: an aborted stream frees its rows", async (t) => {
  const { app, openai } = await served(t);
  app.engine.stepMs = null;
  const pending = openai.completions.create({ ...ASK, stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const stream = await pending;
  for await (const chunk of stream) {
    t.equal(chunk.choices[0]?.text, "c");
    break;
  }
  await until(() => app.engine.cancelled.length === 1);
  const controller = new AbortController();
  const waiting = errorOf(openai.completions.create(ASK, { signal: controller.signal }));
  await until(() => app.engine.submitted.length === 2);
  controller.abort();
  t.ok((await waiting) instanceof OpenAI.APIUserAbortError);
  await until(() => app.engine.cancelled.length === 2);
});

t.test("openai: models", async (t) => {
  const { openai } = await served(t);
  const ids: string[] = [];
  for await (const { id } of openai.models.list()) ids.push(id);
  t.same(ids, ["demo", "p"]);
  t.match(await openai.models.retrieve("admin/p"), { id: "p", object: "model", parent: "demo" });
  t.match(await openai.models.delete("p"), { id: "p", deleted: true });
  t.ok((await errorOf(openai.models.retrieve("p"))) instanceof OpenAI.NotFoundError);
});

t.test("openai: each error has the class of its status, our code and the sender's field", async (t) => {
  const { app, openai, url } = await served(t);
  const create = (body: object): Promise<unknown> =>
    errorOf(openai.completions.create({ ...ASK, ...body } as OpenAI.CompletionCreateParamsNonStreaming));
  const cases: [object, new (...args: never[]) => Error, object][] = [
    [{ best_of: 0 }, OpenAI.BadRequestError, { status: 400, code: "invalid_parameter", param: "best_of" }],
    [{ nothing: 1 }, OpenAI.BadRequestError, { code: "unknown_field", param: "nothing" }],
    [{ model: "q" }, OpenAI.NotFoundError, { status: 404, code: "prefix_not_found", param: "model" }],
    [{ max_tokens: 500 }, OpenAI.UnprocessableEntityError, { status: 422, code: "context_exceeded" }],
    [{ stream: true, model: "q" }, OpenAI.NotFoundError, { code: "prefix_not_found" }],
  ];
  for (const [body, type, expected] of cases) {
    const error = await create(body);
    t.ok(error instanceof type, JSON.stringify(body));
    t.match(error, { type: "invalid_request_error", ...expected });
  }
  const stranger = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
  t.ok((await errorOf(stranger.models.list())) instanceof OpenAI.AuthenticationError);
  app.engine.refused.add("admin");
  t.match(await create({}), { status: 429, type: "rate_limit_error", code: "queue_full" });
  t.ok((await create({})) instanceof OpenAI.RateLimitError);
});

t.test("openai: an error in mid-stream is thrown to the stream's reader", async (t) => {
  const { app, openai } = await served(t);
  app.engine.stepMs = null;
  const pending = openai.completions.create({ ...ASK, stream: true });
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  const texts: string[] = [];
  const error = await errorOf(
    (async () => {
      for await (const { choices } of await pending) {
        texts.push(choices[0]!.text);
        app.engine.failAll(new PrefixdError("device_lost", "The device is lost."));
      }
    })(),
  );
  t.same(texts, ["c"]);
  t.ok(error instanceof OpenAI.APIError);
  t.match(error, { code: "device_lost", type: "server_error" });
});

t.test("openai: it retries what waiting may cure, and nothing else", async (t) => {
  const { app, openai } = await served(t);
  app.engine.stepMs = null;
  const patient = openai.withOptions({ maxRetries: 2 });
  const failingWith = async (error: PrefixdError, times: number): Promise<{ tries: number; result: unknown }> => {
    const before = app.engine.submitted.length;
    const result = patient.completions.create(ASK).catch((thrown: unknown) => thrown);
    for (let tried = 1; tried <= times; tried++) {
      await until(() => app.engine.submitted.length === before + tried);
      app.engine.failAll(error);
    }
    app.engine.stepMs = 0;
    const ended = await result;
    app.engine.stepMs = null;
    return { tries: app.engine.submitted.length - before, result: ended };
  };
  // The client waits for half a second or a second, whatever Retry-After says below that.
  t.match(await failingWith(new PrefixdError("queue_timeout", "", { retryAfter: 1 }), 1), {
    tries: 2,
    result: { choices: [{ text: "cde" }] },
  });
  t.match(await failingWith(new PrefixdError("prefix_base_mismatch", ""), 1), {
    tries: 1,
    result: { status: 409, code: "prefix_base_mismatch" },
  });
  t.match(await failingWith(new PrefixdError("prefix_damaged", ""), 1), { tries: 1, result: { status: 500 } });
});

t.test("@ai-sdk/openai-compatible: a text, a stream, an error", async (t) => {
  const { url } = await served(t);
  const provider = createOpenAICompatible({ name: "prefixd", baseURL: url, apiKey: ADMIN_KEY, includeUsage: true });
  const model = provider.completionModel("p");
  const bytes = { prompt: "ab", maxOutputTokens: 3, temperature: 0, maxRetries: 0 };
  const { text, usage, finishReason } = await generateText({ model, ...bytes });
  t.equal(text.length, 3);
  t.equal(finishReason, "length");
  t.match(usage, { outputTokens: 3 });
  const stream = streamText({ model, ...bytes });
  let streamed = "";
  for await (const part of stream.textStream) streamed += part;
  t.equal(streamed, text);
  t.match(await stream.usage, { outputTokens: 3 });
  const error = await errorOf(generateText({ model: provider.completionModel("q"), ...bytes }));
  t.ok(APICallError.isInstance(error));
  t.match(error, { statusCode: 404, isRetryable: false, message: /no such prefix/ });
});

t.test("openai: a chat, its stream, its form", async (t) => {
  const { app, openai } = await served(t);
  const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "b" }];
  const ask = { model: "p", messages, max_completion_tokens: 3, temperature: 0 };
  const whole = await openai.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 1 });
  t.match(whole, {
    object: "chat.completion",
    choices: [
      {
        message: { role: "assistant", content: "bcd" },
        logprobs: { content: [{ token: "b", bytes: [98], top_logprobs: [{ token: "b" }] }, {}, {}] },
        finish_reason: "length",
      },
    ],
  });
  const again = [...messages, whole.choices[0]!.message, ...messages];
  t.equal((await openai.chat.completions.create({ ...ask, messages: again })).choices.length, 1);
  t.equal(Buffer.from(app.engine.submitted.at(-1)!.promptIds).toString(), "ubabcduba");
  const stream = await openai.chat.completions.create({
    ...ask,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = "";
  let tokens: number | undefined;
  for await (const { choices, usage } of stream) {
    text += choices[0]?.delta.content ?? "";
    tokens = usage?.completion_tokens ?? tokens;
  }
  t.same([text, tokens], ["bcd", 3]);
  app.engine.script = (_request, _choice, k) => (k < 4 ? "true".charCodeAt(k) : 256);
  const schema = { type: "boolean" };
  const form = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } } as const;
  const parsed = await openai.chat.completions.parse({ ...ask, max_completion_tokens: 10, response_format: form });
  t.equal(parsed.choices[0]?.message.content, "true");
  const refused = await errorOf(openai.chat.completions.create({ ...ask, tools: [] }));
  t.match(refused, { status: 400, code: "unsupported_parameter", param: "tools" });
});

t.test("@ai-sdk/openai-compatible: a chat, its stream", async (t) => {
  const { url } = await served(t);
  const provider = createOpenAICompatible({ name: "prefixd", baseURL: url, apiKey: ADMIN_KEY, includeUsage: true });
  const asked = {
    model: provider.chatModel("p"),
    system: "x",
    prompt: "b",
    maxOutputTokens: 3,
    temperature: 0,
    maxRetries: 0,
  };
  const { text, usage, finishReason } = await generateText(asked);
  t.same([text, finishReason, usage.outputTokens], ["bcd", "length", 3]);
  let streamed = "";
  for await (const part of streamText(asked).textStream) streamed += part;
  t.equal(streamed, text);
});
