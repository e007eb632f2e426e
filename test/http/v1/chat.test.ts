import t from "tap";
import { Compile } from "typebox/compile";
import { PrefixdError } from "../../../src/errors.ts";
import { ChatChunk, ChatResponse, MAX_MESSAGES } from "../../../src/http/v1/chat-schema.ts";
import { buildTestApp, post, until, type TestApp } from "../../support/app.ts";
import { open, parseSse, readAll } from "../../support/fake-client.ts";
import { withPrefix } from "../generate/with-prefix.ts";

const URL = "/v1/chat/completions";
const USER = { role: "user", content: "b" };
const BASE = { model: "demo", messages: [USER], max_tokens: 3, temperature: 0 };
const [response, chunk] = [Compile(ChatResponse), Compile(ChatChunk)];

async function chat(app: Pick<TestApp, "fastify">, body: object): Promise<{ status: number; answer: unknown }> {
  const { statusCode, ...answer } = await app.fastify.inject(post(URL, { ...BASE, ...body }));
  return { status: statusCode, answer: answer.json<unknown>() };
}

const promptOf = ({ engine }: TestApp, at = -1): string =>
  Buffer.from(engine.submitted.at(at)?.promptIds ?? []).toString();

async function streamed(app: TestApp, body: object): Promise<string[]> {
  const answer = await open(await app.listen(), URL, { ...BASE, stream: true, ...body });
  return parseSse(await readAll(answer)).map(({ event, data }) => (event === "message" ? data : `${event}: ${data}`));
}

t.test("an answer is what the schema says, whatever is asked for", async (t) => {
  const app = await withPrefix(t);
  const { status, answer } = await chat(app, {
    model: "p",
    logprobs: true,
    top_logprobs: 2,
    seed: 5,
    return_token_ids: true,
  });
  t.equal(status, 200);
  t.same([...response.Errors(answer)], []);
  t.match(answer, {
    id: /^chatcmpl-/,
    object: "chat.completion",
    created: Number,
    model: "p",
    choices: [
      {
        index: 0,
        message: { role: "assistant", content: "bcd", refusal: null },
        logprobs: {
          content: [
            {
              token: "b",
              logprob: -0.5,
              bytes: [98],
              top_logprobs: [
                { token: "b", logprob: -0.5, bytes: [98] },
                { token: "c", logprob: -1.5, bytes: [99] },
              ],
            },
            { token: "c" },
            { token: "d" },
          ],
        },
        finish_reason: "length",
        token_ids: [98, 99, 100],
      },
    ],
    usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6, prefix_tokens: 3 },
  });
  t.match(app.engine.submitted[0], { prefix: { length: 3 }, seed: 5, topLogprobs: 2 });
  for (const over of [{}, { logprobs: true }, { temperature: 1, n: 2 }, { num_beams: 2 }])
    t.same([...response.Errors((await chat(app, over)).answer)], [], JSON.stringify(over));
});

t.test("messages become the prompt that the template makes, without special tokens of the tokenizer", async (t) => {
  const app = await buildTestApp(t);
  for (const [messages, prompt] of [
    [[USER], "uba"],
    [[{ role: "system", content: "x" }, USER], "sxuba"],
    [[{ role: "developer", content: "x" }, USER], "sxuba"],
    [[USER, { role: "assistant", content: "c", refusal: null, tool_calls: null, audio: null }, USER], "ubacuba"],
    [
      [
        {
          role: "user",
          content: [
            { type: "text", text: "x" },
            { type: "text", text: "y" },
          ],
        },
      ],
      "ux\nya",
    ],
    [[{ role: "user", name: "ann", content: "" }], "ua"],
  ] as const) {
    t.equal((await chat(app, { messages })).status, 200, prompt);
    t.equal(promptOf(app), prompt);
  }
});

t.test("fields arrive as those of /v1/completions, and an answer may take all that fits", async (t) => {
  const app = await buildTestApp(t);
  const both = async (theirs: object, chats = theirs): Promise<unknown[]> => {
    await app.fastify.inject(post("/v1/completions", { model: "demo", prompt: "uba", seed: 1, ...theirs }));
    await app.fastify.inject(post(URL, { model: "demo", messages: [USER], seed: 1, ...chats }));
    return app.engine.submitted.slice(-2).map((request) => ({ ...request, id: "" }));
  };
  for (const fields of [
    { max_tokens: 5, temperature: 0.7, top_p: 0.5, min_p: 0.1, top_k: 9, repetition_penalty: 1.5, stop: ["x"] },
    { max_tokens: 5, presence_penalty: 1, frequency_penalty: -1, logit_bias: { "5": -100 }, bad_words: ["x"], n: 2 },
    { max_tokens: 5, min_tokens: 2, stop_token_ids: [7], ignore_eos: true, num_beams: 3 },
  ]) {
    const [a, b] = await both(fields);
    t.same(b, a, JSON.stringify(fields));
  }
  const [a, b] = await both(
    { max_tokens: 5, logprobs: 4 },
    { max_completion_tokens: 5, logprobs: true, top_logprobs: 4 },
  );
  t.same(b, a);
  await chat(app, { max_tokens: null });
  t.equal(app.engine.submitted.at(-1)?.maxNewTokens, 64 + 1 - 3);
});

t.test("response_format is structured_outputs, by OpenAI's name", async (t) => {
  const app = await buildTestApp(t);
  const schema = { type: "boolean" };
  const format = (response_format: object, more = {}): Promise<{ status: number; answer: unknown }> =>
    chat(app, { response_format, ...more });
  for (const [response_format, constrained] of [
    [{ type: "text" }, false],
    [{ type: "json_object" }, true],
    [{ type: "json_schema", json_schema: { name: "x", schema } }, true],
    [{ type: "json_schema", json_schema: { name: "x", description: "y", strict: true, schema } }, true],
    [{ type: "json_schema", json_schema: { name: "x" } }, true],
  ] as const) {
    t.equal((await format(response_format)).status, 200, JSON.stringify(response_format));
    t.equal(app.engine.submitted.at(-1)?.constraint !== null, constrained);
  }
  for (const [body, message] of [
    [{ response_format: { type: "json_schema" } }, /response_format has json_schema exactly where/],
    [{ response_format: { type: "text", json_schema: { name: "x" } } }, /exactly where/],
    [{ response_format: { type: "json_object" }, structured_outputs: { regex: "a" } }, /two forms; send one/],
    [{ response_format: { type: "yaml" } }, /response_format\.type must be one of text,json_object,json_schema/],
    [{ response_format: { type: "json_schema", json_schema: { schema } } }, /lacks "name"/],
  ] as const) {
    const { status, answer } = await chat(app, body);
    t.match([status, answer], [400, { error: { message } }]);
  }
});

t.test("what GPT-2 cannot do is refused by name", async (t) => {
  const app = await buildTestApp(t);
  const image = { type: "image_url", image_url: { url: "data:," } };
  for (const [body, code, message] of [
    [{ tools: [] }, "unsupported_parameter", /"tools" is not supported: GPT-2 has not learnt to call tools/],
    [{ tool_choice: "none" }, "unsupported_parameter", /"tool_choice"/],
    [{ functions: [] }, "unsupported_parameter", /"functions"/],
    [{ modalities: ["audio"] }, "unsupported_parameter", /"modalities"/],
    [{ messages: [{ role: "user", content: [image] }] }, "unsupported_parameter", /"image_url".*text alone/],
    [{ messages: [{ role: "tool", content: "x", tool_call_id: "1" }] }, "unknown_field", /"tool_call_id"/],
    [{ messages: [{ role: "tool", content: "x" }] }, "invalid_parameter", /messages\[0\]\.role must be one of/],
    [
      { messages: [{ role: "assistant", content: "x", tool_calls: [] }] },
      "invalid_parameter",
      /messages\[0\]\.tool_calls must be null; messages have roles and texts alone/,
    ],
    [{ messages: [] }, "invalid_parameter", /messages/],
    [{ messages: Array.from({ length: MAX_MESSAGES + 1 }, () => USER) }, "invalid_parameter", /messages/],
    [{ messages: undefined }, "invalid_request", /lacks "messages"/],
    [{ messages: [USER, { role: "system", content: "" }] }, "invalid_parameter", /A system message comes first/],
    [{ prompt: "x" }, "unknown_field", /Did you mean "messages"/],
    [{ top_logprobs: 1 }, "invalid_parameter", /top_logprobs needs logprobs true/],
    [{ max_completion_tokens: 4 }, "invalid_parameter", /older name/],
    [{ stream_options: {} }, "invalid_parameter", /needs stream/],
    [{ n: 2 }, "invalid_parameter", /needs a temperature above 0/],
  ] as const) {
    const { answer } = await chat(app, body);
    t.match(answer, { error: { code, message } }, JSON.stringify(body).slice(0, 80));
  }
  const { answer: long } = await chat(app, { messages: [{ role: "user", content: "x".repeat(100) }] });
  t.match(long, { error: { code: "context_exceeded", param: "messages" } });
  for (const name of ["max_tokens", "max_completion_tokens"])
    t.match((await chat(app, { max_tokens: undefined, [name]: 2, min_tokens: 3 })).answer, {
      error: { message: `min_tokens must be <= ${name}` },
    });
});

t.test("without a template there is no chat, whatever the body is", async (t) => {
  const { fastify } = await buildTestApp(t, { chat: null });
  for (const body of [BASE, {}, { nothing: 1 }])
    t.match((await fastify.inject(post(URL, body))).json(), {
      error: { code: "unsupported_parameter", param: "messages", message: /no chat template.*--chat-template FILE/ },
    });
});

t.test("a stream: the role once, text as it comes, usage where asked for", async (t) => {
  const app = await buildTestApp(t);
  const events = await streamed(app, { stream_options: { include_usage: true }, logprobs: true });
  t.equal(events.pop(), "[DONE]");
  const chunks = events.map((data) => JSON.parse(data) as object);
  for (const one of chunks) t.same([...chunk.Errors(one)], []);
  t.match(chunks, [
    {
      object: "chat.completion.chunk",
      choices: [
        {
          delta: { role: "assistant", content: "b" },
          logprobs: { content: [{ token: "b", top_logprobs: [] }], refusal: null },
          finish_reason: null,
        },
      ],
      usage: null,
    },
    { choices: [{ delta: { content: "c" }, finish_reason: null }] },
    { choices: [{ delta: { content: "d" }, finish_reason: "length" }], usage: null },
    { choices: [], usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6, prefix_tokens: 0 } },
  ]);
  t.notMatch(chunks[1], { choices: [{ delta: { role: "assistant" } }] });
  const two = await streamed(await buildTestApp(t), { temperature: 1, n: 2 });
  t.match(
    two.slice(0, 2).map((data) => JSON.parse(data) as object),
    [
      {
        choices: [
          { index: 0, delta: { role: "assistant" } },
          { index: 1, delta: { role: "assistant" } },
        ],
      },
      { choices: [{ index: 0, delta: {} }, { index: 1 }] },
    ],
  );
});

t.test("an error in mid-stream is the last event", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const events = streamed(app, {});
  await until(() => app.engine.submitted.length === 1);
  app.engine.step();
  await new Promise((resolve) => setImmediate(resolve));
  app.engine.failAll(new PrefixdError("device_lost", "The device is lost."));
  t.match(
    (await events).map((data) => JSON.parse(data) as object),
    [{ choices: [{ delta: { content: "b" } }] }, { error: { code: "device_lost", type: "server_error" } }],
  );
});
