import t from "tap";
import { Compile } from "typebox/compile";
import { PrefixdError } from "../../../src/errors.ts";
import { CompletionsResponse } from "../../../src/http/v1/completions-schema.ts";
import { OpenAiError } from "../../../src/http/v1/errors.ts";
import { ADMIN_KEY, buildTestApp, post, until, type TestApp } from "../../support/app.ts";
import { open, readAll } from "../../support/fake-client.ts";
import { withPrefix } from "../generate/with-prefix.ts";
import { BASE, complete, type Completion, URL } from "./complete.ts";

const [response, problem] = [Compile(CompletionsResponse), Compile(OpenAiError)];

t.test("every answer matches the schema", async (t) => {
  const app = await withPrefix(t);
  const { statusCode, headers, ...answer } = await app.fastify.inject(
    post(URL, { ...BASE, model: "p", logprobs: 1, seed: 5, return_token_ids: true }),
  );
  t.equal(statusCode, 200);
  t.equal(headers["content-type"], "application/json; charset=utf-8");
  const body = answer.json<object>();
  t.same([...response.Errors(body)], []);
  t.match(body, {
    id: /^cmpl-/,
    object: "text_completion",
    created: Number,
    model: "p",
    choices: [
      {
        index: 0,
        text: "cde",
        logprobs: {
          tokens: ["c", "d", "e"],
          token_logprobs: [-0.5, -0.5, -0.5],
          top_logprobs: [{ c: -0.5 }, { d: -0.5 }, { e: -0.5 }],
          text_offset: [0, 1, 2],
        },
        finish_reason: "length",
        token_ids: [99, 100, 101],
      },
    ],
    usage: { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5, prefix_tokens: 3 },
  });
  t.match(app.engine.submitted[0], { prefix: { length: 3 }, seed: 5, topLogprobs: 1 });
  for (const over of [{}, { logprobs: 0 }, { echo: true, logprobs: 5 }, { n: 2 }, { best_of: 3 }, { num_beams: 2 }])
    t.same([...response.Errors(await complete(app, { ...BASE, ...over }))], [], JSON.stringify(over));
});

t.test("defaults are OpenAI's, even if the model has its own; null means absent", async (t) => {
  const defaults = { max_new_tokens: 5, do_sample: false, temperature: 0.3, top_k: 7, n: 2, repetition_penalty: 2 };
  const app = await buildTestApp(t, { defaults });
  const sampling = { doSample: true, temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1 };
  const nulls = {
    ...{ max_tokens: null, temperature: null, top_p: null, n: null, best_of: null, stream: null, stream_options: null },
    ...{ logprobs: null, echo: null, stop: null, seed: null, presence_penalty: null, frequency_penalty: null },
    ...{ logit_bias: null, suffix: null, user: null, store: null, metadata: null, top_k: null, min_p: null },
    ...{ repetition_penalty: null, min_tokens: null, ignore_eos: null, stop_token_ids: null, bad_words: null },
    ...{ num_beams: null, return_token_ids: null },
  };
  for (const over of [{}, nulls, { user: "u", store: true, metadata: { a: "b" } }]) {
    const { choices } = await complete(app, { model: "demo", prompt: "ab", ...over });
    t.match(choices, [{ logprobs: null }]);
    t.match(app.engine.submitted.at(-1), { prefix: null, n: 1, beams: null, maxNewTokens: 16, sampling });
  }
});

t.test("each field means the same as in /generate", async (t) => {
  const app = await buildTestApp(t);
  const both = async (own: object, theirs: object): Promise<unknown[]> => {
    await app.fastify.inject(post("/generate", { prompt: "ab", seed: 1, top_k: 0, max_new_tokens: 16, ...own }));
    await app.fastify.inject(post(URL, { model: "demo", prompt: "ab", seed: 1, ...theirs }));
    return app.engine.submitted.slice(-2).map((request) => ({ ...request, id: "" }));
  };
  const sampled = { do_sample: true };
  const same = {
    ...{ temperature: 0.7, top_p: 0.5, min_p: 0.1, top_k: 9, repetition_penalty: 1.5, presence_penalty: 1 },
    ...{ frequency_penalty: -1, logit_bias: { "5": -100 }, bad_words: ["x"], stop_token_ids: [7], seed: 9 },
  };
  for (const [own, theirs] of [
    [{ ...sampled, ...same }, same],
    [
      { ...sampled, max_new_tokens: 4, min_new_tokens: 2 },
      { max_tokens: 4, min_tokens: 2 },
    ],
    [sampled, { top_k: -1 }],
    [{ do_sample: false }, { temperature: 0 }],
    [{ do_sample: true, temperature: 0 }, { temperature: 0 }],
    [
      { ...sampled, ignore_eos: true, logprobs: 20, echo: true, n: 2 },
      { ignore_eos: true, logprobs: 20, echo: true, n: 2 },
    ],
    [{ ...sampled, best_of: 3 }, { best_of: 3 }],
    [{ num_beams: 3 }, { num_beams: 3 }],
  ]) {
    const [a, b] = await both(own!, theirs!);
    t.same(b, a, JSON.stringify(theirs));
  }
  t.equal(app.engine.submitted.at(-7)?.sampling.doSample, false, "a temperature of 0 takes the likeliest token");
});

t.test("prompts as text, as ids, and several of either", async (t) => {
  const app = await buildTestApp(t);
  for (const [prompt, expected] of [
    ["ab", ["ab"]],
    [[97, 98], ["ab"]],
    [
      ["ab", "c"],
      ["ab", "c"],
    ],
    [
      [[97], [98, 99]],
      ["a", "bc"],
    ],
    [
      [[97], "bc"],
      ["a", "bc"],
    ],
  ] as const) {
    app.engine.submitted.length = 0;
    const { choices } = await complete(app, { ...BASE, prompt, n: 2 });
    t.same(
      app.engine.submitted.map(({ promptIds }) => Buffer.from(promptIds).toString()),
      expected,
    );
    t.equal(choices.length, 2 * expected.length);
  }
});

t.test("EOS and stop strings both end as stop; the text ends before them", async (t) => {
  const app = await buildTestApp(t);
  app.engine.script = (_request, _choice, k) => [65, 66, 256][k]!;
  t.match(await complete(app, BASE), { choices: [{ text: "AB", finish_reason: "stop" }] });
  t.match(await complete(app, { ...BASE, stop: "B" }), { choices: [{ text: "A", finish_reason: "stop" }] });
  t.match(await complete(app, { ...BASE, max_tokens: 2 }), { choices: [{ text: "AB", finish_reason: "length" }] });
});

t.test("echo with log probabilities, as lm-evaluation-harness requests it", async (t) => {
  const app = await buildTestApp(t);
  const body = {
    model: "demo",
    prompt: [[97, 98, 99]],
    temperature: 0,
    max_tokens: 1,
    logprobs: 1,
    seed: 1234,
    echo: true,
  };
  const { choices } = await complete(app, body);
  t.match(choices, [
    {
      text: "abcd",
      logprobs: {
        tokens: ["a", "b", "c", "d"],
        token_logprobs: [null, -0.25, -0.25, -0.5],
        top_logprobs: [null, { b: -0.25 }, { c: -0.25 }, { d: -0.5 }],
        text_offset: [0, 1, 2, 3],
      },
    },
  ]);
  t.match(await complete(app, { ...body, max_tokens: 0 }), { choices: [{ text: "abc", finish_reason: "length" }] });
});

t.test("the chosen token is among the likeliest; offsets count characters", async (t) => {
  const app = await buildTestApp(t);
  // An e with an accent, whose bytes are two tokens, then a token that is none of the likeliest.
  app.engine.script = (_request, _choice, k) => [0xc3, 0xa9, 0x62][k]!;
  const { choices } = await complete(app, { ...BASE, prompt: "é", logprobs: 2, echo: true });
  const [{ logprobs }] = choices as [Completion["choices"][number]];
  t.same(logprobs.text_offset, [0, 0, 1, 1, 2]);
  t.same(logprobs.top_logprobs.at(-1), { b: -0.5, c: -1.5 });
  t.same(logprobs.top_logprobs[3], { "\ufffd": -0.5 }, "of tokens with the same text the likeliest");
  app.engine.logprob = () => -3;
  const none = await complete(app, { ...BASE, logprobs: 0, max_tokens: 3 });
  t.same(none.choices[0]!.logprobs.top_logprobs.at(-1), { b: -3 });
});

t.test("refusals have OpenAI's shape and name the sender's field", async (t) => {
  const app = await withPrefix(t, { limits: { requestBody: 65_536, answer: 3000, maxN: 4, slots: 8, queue: 256 } });
  const refusals: [body: object, status: number, code: string, param: string | null, message: RegExp][] = [
    [{ prompt: "a" }, 400, "invalid_request", "model", /lacks "model"/],
    [{ model: "demo" }, 400, "invalid_request", "prompt", /lacks "prompt"/],
    [{ ...BASE, prompt: null }, 400, "invalid_parameter", "prompt", /^prompt must be string or array/],
    [{ ...BASE, prompt: [] }, 400, "empty_prompt", "prompt", /^prompt is empty/],
    [{ ...BASE, prompt: ["a", ""] }, 400, "empty_prompt", "prompt[1]", /^prompt\[1\] is empty/],
    [{ ...BASE, prompt: [1, "a"] }, 400, "invalid_parameter", "prompt[1]", /^prompt\[1\] must be integer/],
    [{ ...BASE, prompt: ["a", 1] }, 400, "invalid_parameter", "prompt[0]", /a list has either token ids or prompts\.$/],
    [{ ...BASE, prompt: [[1], [999]] }, 400, "invalid_token_id", "prompt[1][0]", /^prompt\[1\]\[0\] is 999/],
    [{ ...BASE, prompt: Array(65).fill("a") }, 400, "invalid_parameter", "prompt", /more than 64/],
    [{ ...BASE, prompt: "a".repeat(65) }, 422, "context_exceeded", "prompt", /^prompt is/],
    [{ ...BASE, prompt: ["a", "a".repeat(64)] }, 422, "context_exceeded", null, /64 prompt \(at index 1\) \+ 3 new/],
    [{ ...BASE, max_tokens: 100 }, 422, "context_exceeded", null, /100 new tokens/],
    [{ ...BASE, max_tokens: 0 }, 400, "invalid_parameter", "max_tokens", /^max_tokens must be >= 1; 0 only with echo/],
    [
      { model: "demo", prompt: "a", min_tokens: 20 },
      400,
      "invalid_parameter",
      "min_tokens",
      /A default.*max_tokens 16/,
    ],
    [{ ...BASE, n: 2, temperature: 0 }, 400, "invalid_parameter", "n", /^n > 1 needs a temperature above 0/],
    [{ ...BASE, n: 5 }, 400, "invalid_parameter", "n", /^n must be <= 4/],
    [{ ...BASE, best_of: 2, n: 3 }, 400, "invalid_parameter", "best_of", /^best_of must be >= n/],
    [{ ...BASE, best_of: 2, stream: true }, 400, "invalid_parameter", "best_of", /cannot be streamed/],
    [{ ...BASE, logprobs: 21 }, 400, "invalid_parameter", "logprobs", /<= 20/],
    [{ ...BASE, logprobs: true }, 400, "invalid_parameter", "logprobs", /integer/],
    [{ ...BASE, stop: ["a", ""] }, 400, "invalid_parameter", "stop[1]", /^stop\[1\]/],
    [{ ...BASE, logit_bias: { x: 1 } }, 400, "invalid_token_id", "logit_bias", /"x"/],
    [{ ...BASE, suffix: "b" }, 400, "unsupported_parameter", "suffix", /infill/],
    [{ ...BASE, messages: [] }, 400, "unsupported_parameter", "messages", /a field of .v1.chat.completions/],
    [{ ...BASE, use_beam_search: true }, 400, "unsupported_parameter", "use_beam_search", /use num_beams/],
    [{ ...BASE, stream_options: { include_usage: true } }, 400, "invalid_parameter", "stream_options", /stream true/],
    [{ ...BASE, stream: true, stream_options: { usage: true } }, 400, "unknown_field", "usage", /"usage"/],
    [{ ...BASE, max_new_tokens: 3 }, 400, "unknown_field", "max_new_tokens", /Did you mean "max_tokens"\?$/],
    [{ ...BASE, prefix_id: "p" }, 400, "unknown_field", "prefix_id", /Did you mean "model"/],
    [{ ...BASE, n: 4, logprobs: 20 }, 422, "answer_too_large", null, /Lower logprobs, n, max_tokens\.$/],
    [{ ...BASE, model: "nope" }, 404, "prefix_not_found", "model", /no such prefix/],
    [{ ...BASE, model: "ann/nope" }, 404, "prefix_not_found", "model", /no such prefix/],
    [{ ...BASE, model: "a b" }, 400, "invalid_prefix_id", "model", /name/],
    [{ ...BASE, model: 1 }, 400, "invalid_parameter", "model", /string/],
    ...(
      [
        [{}, "invalid_parameter", "structured_outputs", /exactly one of .*; it has none/],
        [{ choice: "a" }, "invalid_parameter", "structured_outputs.choice", /array/],
        [{ choice: [""] }, "constraint_invalid", "structured_outputs", /empty text/],
        [{ regex: "a(?=b)" }, "constraint_unsupported", "structured_outputs", /at character 2/],
        [{ json: { not: {} } }, "constraint_unsupported", "structured_outputs", /^At \/not of the schema/],
        [{ regex: "(a{1,1000}){1,1000}" }, "constraint_too_complex", "structured_outputs", /parts/],
      ] as const
    ).map(([structured_outputs, code, param, message]): (typeof refusals)[number] => [
      { ...BASE, structured_outputs },
      400,
      code,
      param,
      message,
    ]),
    [{ ...BASE, guided_json: {} }, 400, "unsupported_parameter", "guided_json", /structured_outputs/],
  ];
  for (const [body, status, code, param, message] of refusals) {
    const answer = await app.fastify.inject(post(URL, body));
    const error = answer.json<object>();
    t.equal(answer.statusCode, status, JSON.stringify(body).slice(0, 100));
    t.match(error, { error: { code, message } });
    t.equal((error as { error: { param: string | null } }).error.param, param);
    t.same([...problem.Errors(error)], []);
    t.equal(answer.headers["content-type"], "application/json; charset=utf-8");
    t.equal(answer.headers["x-should-retry"], "false");
  }
  t.equal(app.engine.submitted.length, 0);
});

t.test("x-should-retry is false where retrying is pointless, and absent elsewhere", async (t) => {
  const app = await withPrefix(t);
  const retry = async (error: PrefixdError): Promise<unknown[]> => {
    app.engine.stepMs = null;
    const pending = app.fastify.inject(post(URL, { ...BASE, model: "p" }));
    const submitted = app.engine.submitted.length;
    await until(() => app.engine.submitted.length > submitted);
    app.engine.failAll(error);
    const { statusCode, headers } = await pending;
    return [statusCode, headers["x-should-retry"], headers["retry-after"]];
  };
  t.same(await retry(new PrefixdError("queue_timeout", "", { retryAfter: 1 })), [503, undefined, "1"]);
  t.same(await retry(new PrefixdError("internal", "")), [500, undefined, undefined]);
  t.same(await retry(new PrefixdError("prefix_base_mismatch", "")), [409, "false", undefined]);
  t.same(await retry(new PrefixdError("prefix_damaged", "")), [500, "false", undefined]);
  const limit = { name: "tokens", remaining: 0, resetSeconds: 60, windowSeconds: 60 } as const;
  const used = (quota: number) =>
    new PrefixdError("token_rate_exceeded", "", { retryAfter: 60, limit: { ...limit, quota } });
  t.same(await retry(used(100)), [429, undefined, "60"]);
  t.same(await retry(used(0)), [429, "false", "60"], "nothing will ever be allowed");
});

t.test(
  "every error under /v1 has OpenAI's shape, also where there is nothing; elsewhere it is a problem",
  async (t) => {
    const { fastify } = await buildTestApp(t, { keyed: true });
    const auth = { authorization: `Bearer ${ADMIN_KEY}` };
    const get = async (method: "GET" | "POST", url: string, headers = {}): Promise<[number, unknown]> => {
      const answer = await fastify.inject({ method, url, headers });
      return [answer.statusCode, answer.json()];
    };
    t.match(await get("POST", URL), [401, { error: { type: "authentication_error", code: "unauthorized" } }]);
    t.match(await get("POST", "/v1/embeddings", auth), [404, { error: { code: "not_found" } }]);
    t.match(await get("GET", URL, auth), [405, { error: { code: "method_not_allowed" } }]);
    t.match(await get("GET", "/v1", auth), [404, { error: { code: "not_found" } }]);
    t.match(await get("GET", "/v1?x=1", auth), [404, { error: { code: "not_found" } }]);
    t.match(await get("GET", "/v10", auth), [404, { code: "not_found", status: 404 }]);
    t.match(await get("GET", "/v1/%zz", auth), [400, { error: { code: "invalid_request" } }]);
  },
);

t.test("the base model answers only to its name, never for a prefix of the same name", async (t) => {
  const closed = await buildTestApp(t, { allowBaseModel: false });
  const [, refused] = await send(closed, BASE);
  t.match(refused, { error: { code: "base_model_disabled", type: "permission_error", param: "model" } });
  const app = await buildTestApp(t);
  t.match(await send(app, BASE), [200, { model: "demo" }]);
  await app.registry.register({ user: "local", name: "demo" }, { kind: "hard", ids: Int32Array.of(1) });
  t.match(await send(app, BASE), [
    400,
    { error: { code: "invalid_parameter", param: "model", message: /"local\/demo"/ } },
  ]);
  t.match(await send(app, { ...BASE, model: "local/demo" }), [200, { usage: { prefix_tokens: 1 } }]);
});

async function send(app: TestApp, body: object): Promise<[number, unknown]> {
  const answer = await app.fastify.inject(post(URL, body));
  return [answer.statusCode, answer.json()];
}

t.test("requests are counted, logged and refused early as those of /generate", async (t) => {
  const app = await withPrefix(t);
  await app.fastify.inject(post(URL, { ...BASE, nothing: 1 }));
  app.engine.refused.add("local");
  t.match(
    await app.fastify.inject(post(URL, { ...BASE, nothing: 1 })),
    { statusCode: 429 },
    "before the body is looked at",
  );
  app.engine.refused.clear();
  const answer = await open(await app.listen(), URL, { ...BASE, model: "p" });
  await readAll(answer);
  await until(() => app.logs.some((line) => line.includes('"status":200')));
  t.match(JSON.parse(app.logs.at(-1)!), {
    route: URL,
    prefix_id: "p",
    prefix_tokens: 3,
    prompt_tokens: 2,
    completion_tokens: 3,
  });
  const metrics = await app.metrics.render();
  for (const outcome of ["ok", "unknown_field", "queue_full"])
    t.match(metrics, new RegExp(`prefixd_requests_total\\{outcome="${outcome}"\\} 1\n`));
});
