import t from "tap";
import { Compile } from "typebox/compile";
import { GenerateResponse } from "../../../src/http/generate/answer-schema.ts";
import { buildTestApp, post } from "../../support/app.ts";
import { withPrefix } from "./with-prefix.ts";

const PROMPT = { prompt: "ab", max_new_tokens: 3 };

t.test("answers of POST /generate match the schema", async (t) => {
  const { fastify } = await withPrefix(t);
  const response = await fastify.inject(
    post("/generate", { ...PROMPT, prefix_id: "p", logprobs: 1, return_token_ids: true, seed: 5 }),
  );
  t.equal(response.statusCode, 200);
  t.match(response.headers, {
    "content-type": "application/json; charset=utf-8",
    "x-request-id": /^[0-9a-f]{16}$/,
    "x-content-type-options": "nosniff",
  });
  const body: unknown = response.json();
  t.same(Compile(GenerateResponse).Errors(body), []);
  t.match(body, {
    id: /^gen-/,
    prefix: { id: "p", digest: /^[0-9a-f]{64}$/ },
    model: "demo",
    usage: { prefix_tokens: 3, prompt_tokens: 2, completion_tokens: 3 },
    seed: 5,
    choices: [
      {
        index: 0,
        text: "cde",
        token_ids: [99, 100, 101],
        finish_reason: "length",
        logprobs: {
          token_logprobs: [-0.5, -0.5, -0.5],
          top_logprobs: [[{ id: 99, token: "c", logprob: -0.5 }], [], []],
        },
      },
    ],
  });
});

t.test("timings are returned when asked for", async (t) => {
  const { fastify } = await buildTestApp(t);
  const timingsOf = async (over: object): Promise<Record<string, number | null> | undefined> => {
    const body = (await fastify.inject(post("/generate", { ...PROMPT, ...over }))).json<{ timings?: object }>();
    t.same(Compile(GenerateResponse).Errors(body), []);
    return body.timings as Record<string, number | null> | undefined;
  };
  t.equal(await timingsOf({}), undefined);
  const times = await timingsOf({ timings: true });
  t.same(Object.keys(times ?? {}), ["queue_ms", "prefill_ms", "decode_ms", "tokens_per_second"]);
  for (const value of Object.values(times ?? {})) t.ok(value !== null && value >= 0);
  t.match(await timingsOf({ timings: true, max_new_tokens: 1 }), { decode_ms: 0, tokens_per_second: null });
  t.match(await timingsOf({ timings: true, max_new_tokens: 0, echo: true }), { tokens_per_second: null });
});

t.test("prompts as token ids, several prompts, choices numbered prompt by prompt", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const body = {
    prompts: ["a", [66]],
    n: 2,
    do_sample: true,
    max_new_tokens: 2,
    seed: 1,
    stop: "zzz",
    ignore_eos: true,
  };
  const { choices } = (await fastify.inject(post("/generate", body))).json<{
    choices: { index: number; text: string }[];
  }>();
  t.same(
    choices.map(({ index, text }) => [index, text]),
    [
      [0, "bc"],
      [1, "cd"],
      [2, "CD"],
      [3, "DE"],
    ],
  );
  t.same(
    engine.submitted.map(({ seed, eosIds }) => [seed, eosIds]),
    [
      [1, []],
      [1, []],
    ],
    "each prompt as if it were alone",
  );
  t.equal(
    (await fastify.inject(post("/generate", { prompt: [256], max_new_tokens: 1 }))).statusCode,
    200,
    "the BOS token stands for an empty prompt",
  );
});

t.test("with echo, choices begin with the prompt and its log probabilities", async (t) => {
  const { fastify, engine } = await withPrefix(t);
  const body = {
    prompts: ["ab", [99, 256]],
    n: 2,
    do_sample: true,
    max_new_tokens: 2,
    echo: true,
    return_token_ids: true,
    prefix_id: "p",
  };
  const plain = (await fastify.inject(post("/generate", body))).json<{ choices: object[]; usage: object }>();
  t.match(plain, {
    choices: [{ text: "abcd", token_ids: [97, 98, 99, 100] }, { text: "abde" }, { token_ids: [99, 256, 257, 258] }, {}],
    usage: { prompt_tokens: 4, completion_tokens: 8 },
  });
  t.notMatch(plain, { choices: [{ logprobs: {} }] });
  t.equal(engine.submitted[0]?.scorePrompt, false, "what nobody asks for is not computed");
  const scored: unknown = (await fastify.inject(post("/generate", { ...body, prompts: ["ab"], logprobs: 1 }))).json();
  t.same(Compile(GenerateResponse).Errors(scored), []);
  t.match(scored, {
    choices: [
      {
        text: "abcd",
        logprobs: {
          token_logprobs: [null, -0.25, -0.5, -0.5],
          top_logprobs: [[], [{ id: 98, token: "b", logprob: -0.25 }], [{ id: 99 }], [{ id: 100 }]],
        },
      },
      { text: "abde" },
    ],
  });
  const only: unknown = (
    await fastify.inject(post("/generate", { prompt: "ab", echo: true, max_new_tokens: 0, logprobs: 0 }))
  ).json();
  t.match(only, {
    choices: [
      { text: "ab", finish_reason: "length", logprobs: { token_logprobs: [null, -0.25], top_logprobs: [[], []] } },
    ],
    usage: { prompt_tokens: 2, completion_tokens: 0 },
  });
});

t.test("echo without new tokens needs as much room as with one", async (t) => {
  const { fastify, engine } = await withPrefix(t);
  const echo = { prefix_id: "p", max_new_tokens: 0, echo: true };
  const [fits, beyond] = [Array(61).fill(5) as number[], Array(62).fill(5) as number[]];
  for (const more of [{}, { logprobs: 0 }, { n: 2, do_sample: true, logprobs: 1 }, { stream: true }]) {
    t.equal((await fastify.inject(post("/generate", { ...echo, ...more, prompt: fits }))).statusCode, 200);
    const taken = engine.submitted.length;
    for (const prompts of [{ prompt: beyond }, { prompts: [fits, beyond] }, { prompts: [beyond] }]) {
      const response = await fastify.inject(post("/generate", { ...echo, ...more, ...prompts }));
      t.match(
        [response.statusCode, response.json()],
        [
          422,
          {
            code: "context_exceeded",
            detail: /^3 prefix \+ 62 prompt.* \+ 0 new tokens are 65; the model takes 64 where nothing is generated/,
          },
        ],
      );
    }
    t.equal(engine.submitted.length, taken, "none of its prompts is taken in");
  }
  t.equal(
    (await fastify.inject(post("/generate", { ...echo, prompt: beyond, max_new_tokens: 1, echo: false }))).statusCode,
    422,
  );
});

t.test("POST /prefixes/:id/generate takes the prefix from the path", async (t) => {
  const { fastify } = await withPrefix(t);
  const go = (id: string, body: object): Promise<{ statusCode: number; json(): unknown }> =>
    fastify.inject(post(`/prefixes/${id}/generate`, body));
  t.match((await go("p", PROMPT)).json(), { prefix: { id: "p" }, usage: { prefix_tokens: 3 } });
  t.match((await go("p", { ...PROMPT, prefix_id: "p" })).json(), { prefix: { id: "p" } });
  t.match((await go("p", { ...PROMPT, prefix_id: "local/p" })).json(), { prefix: { id: "p" } });
  t.match((await go("p", { ...PROMPT, prefix_id: "q" })).json(), { code: "invalid_parameter" });
  t.match((await go("q", PROMPT)).json(), { code: "prefix_not_found" });
  t.match((await go("other%2Fp", PROMPT)).json(), { code: "prefix_not_found" });
  t.match((await go("%2e%2e%2fetc", PROMPT)).json(), { code: "invalid_prefix_id" });
});

t.test("a full queue gives 429 with Retry-After, an unavailable store 503, a disabled base model 403", async (t) => {
  const { fastify, engine, registry } = await withPrefix(t);
  engine.maxQueue = 0;
  const full = await fastify.inject(post("/generate", PROMPT));
  t.match([full.statusCode, full.headers["retry-after"], full.json<{ code: string }>().code], [429, "1", "queue_full"]);
  const { PrefixdError } = await import("../../../src/errors.ts");
  registry.down = new PrefixdError("store_unavailable", "The prefix store is away.", { retryAfter: 1.2 });
  const away = await fastify.inject(post("/generate", { ...PROMPT, prefix_id: "p" }));
  t.match(
    [away.statusCode, away.headers["retry-after"], away.json<{ code: string }>().code],
    [503, "2", "store_unavailable"],
  );
  const strict = await buildTestApp(t, { allowBaseModel: false });
  t.match((await strict.fastify.inject(post("/generate", PROMPT))).json(), {
    code: "base_model_disabled",
    status: 403,
  });
});

t.test("when no request can wait, it is refused before its body is read", async (t) => {
  const { fastify, engine, metrics } = await withPrefix(t);
  const huge = post("/generate", { prompt: "x".repeat(100_000) });
  t.equal((await fastify.inject(huge)).statusCode, 413);
  engine.refused.add("local");
  for (const url of ["/generate", "/prefixes/p/generate"]) {
    const full = await fastify.inject({ ...huge, url });
    t.match(
      [full.statusCode, full.headers["retry-after"], full.json<{ code: string }>().code],
      [429, "1", "queue_full"],
    );
  }
  t.match(await metrics.render(), /prefixd_requests_total\{outcome="queue_full"\} 2\n/);
  engine.refused.clear();
  engine.refused.add("another");
  t.equal((await fastify.inject(post("/generate", PROMPT))).statusCode, 200);
});

t.test("internal errors are masked, logged with their cause, and counted", async (t) => {
  const { fastify, engine, registry, logs, metrics } = await withPrefix(t);
  engine.script = () => {
    throw new Error("SECRET DETAIL");
  };
  registry.whileResolving = () => Promise.reject(new Error("SECRET DETAIL"));
  const response = await fastify.inject(post("/generate", { ...PROMPT, prefix_id: "p" }));
  t.match(response.json(), { status: 500, code: "internal", title: "Internal error" });
  t.notMatch(response.body, /SECRET|at .*\.ts/);
  t.ok(
    logs.some(
      (line) =>
        line.includes("SECRET DETAIL") &&
        line.includes('"level":"error"') &&
        line.includes(String(response.headers["x-request-id"])),
    ),
  );
  t.match(await metrics.render(), /prefixd_requests_total\{outcome="internal"\} 1\n/);
});
