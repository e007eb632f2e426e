/** What the fields of a generate request become. */
import t from "tap";
import { Compile } from "typebox/compile";
import { GenerateResponse } from "../../../src/http/generate/answer-schema.ts";
import { buildTestApp, post } from "../../support/app.ts";
import { withPrefix } from "./with-prefix.ts";

const PROMPT = { prompt: "ab", max_new_tokens: 3 };

t.test("defaults are transformers'; the answer has only what was asked for", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const body = (await fastify.inject(post("/generate", { prompt: "ab" }))).json<Record<string, unknown>>();
  t.equal(body["prefix"], null);
  t.match(engine.submitted[0], {
    prefix: null,
    n: 1,
    maxNewTokens: 20,
    topLogprobs: 0,
    eosIds: [256],
    sampling: {
      doSample: false,
      temperature: 1,
      topK: 50,
      topP: 1,
      minP: 0,
      typicalP: 1,
      epsilonCutoff: 0,
      etaCutoff: 0,
      repetitionPenalty: 1,
      presencePenalty: 0,
      frequencyPenalty: 0,
      noRepeatNgramSize: 0,
      badWords: [],
      logitBias: new Map(),
      minNewTokens: 0,
      topH: null,
      sequenceBias: [],
      suppressIds: [],
      beginSuppressIds: [],
      forcedBosId: null,
      forcedLast: null,
      exponentialDecay: null,
      renormalize: false,
    },
  });
  t.ok(Number.isInteger(body["seed"]) && body["seed"] === engine.submitted[0]?.seed);
  t.notMatch(body, { choices: [{ token_ids: [] }] });
});

t.test("processors reach the engine; a bad word as text counts with and without a leading space", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const body = {
    prompt: "ab",
    do_sample: true,
    no_repeat_ngram_size: 3,
    presence_penalty: -0.5,
    frequency_penalty: 2,
    typical_p: 0.9,
    epsilon_cutoff: 0.01,
    eta_cutoff: 0.02,
    logit_bias: { 0: -100, 256: 1.5 },
    bad_words: ["no", " x", [5, 6], [7]],
  };
  t.equal((await fastify.inject(post("/generate", body))).statusCode, 200);
  t.match(engine.submitted[0]?.sampling, {
    noRepeatNgramSize: 3,
    presencePenalty: -0.5,
    frequencyPenalty: 2,
    typicalP: 0.9,
    epsilonCutoff: 0.01,
    etaCutoff: 0.02,
  });
  t.same(
    engine.submitted[0]?.sampling.logitBias,
    new Map([
      [0, -100],
      [256, 1.5],
    ]),
  );
  t.same(engine.submitted[0]?.sampling.badWords, [[110, 111], [32, 110, 111], [32, 120], [5, 6], [7]]);
});

t.test("forced, forbidden and biased tokens reach the engine as ids, each once", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  const body = {
    prompt: "ab",
    max_new_tokens: 7,
    do_sample: true,
    top_h: 0.4,
    suppress_tokens: [3, 3, 256],
    begin_suppress_tokens: [32],
    forced_bos_token_id: 9,
    forced_eos_token_id: [10, 256, 10],
    exponential_decay_length_penalty: [2, 1.5],
    renormalize_logits: true,
    sequence_bias: [
      [[5], 1.5],
      [[5, 6], -2],
      [[5], 2.5],
    ],
    logit_bias: { 6: 1 },
  };
  t.equal((await fastify.inject(post("/generate", body))).statusCode, 200);
  t.match(engine.submitted[0]?.sampling, {
    topH: 0.4,
    suppressIds: [3, 256],
    beginSuppressIds: [32],
    forcedBosId: 9,
    forcedLast: { ids: [10, 256], index: 6 },
    exponentialDecay: { start: 2, factor: 1.5 },
    renormalize: true,
    sequenceBias: [
      { ids: [5], bias: 2.5 },
      { ids: [5, 6], bias: -2 },
    ],
    logitBias: new Map([[6, 1]]),
  });
  await fastify.inject(post("/generate", { prompt: "ab", forced_eos_token_id: 256 }));
  t.same(engine.submitted[1]?.sampling.forcedLast, { ids: [256], index: 19 });
});

t.test("beam search can sample, and stops before stop strings", async (t) => {
  const { fastify, engine } = await withPrefix(t);
  const drawn = await fastify.inject(
    post("/generate", { ...PROMPT, num_beams: 3, n: 2, do_sample: true, seed: 5, temperature: 0.5 }),
  );
  t.match([drawn.statusCode, drawn.json()], [200, { seed: 5, choices: [{ score: -1 }, { score: -2 }] }]);
  t.match(engine.submitted[0], {
    n: 2,
    seed: 5,
    beamStop: null,
    beams: { numBeams: 3 },
    sampling: { doSample: true, temperature: 0.5 },
  });
  const stopped: unknown = (
    await fastify.inject(
      post("/generate", {
        ...PROMPT,
        num_beams: 2,
        stop: ["d", "xy"],
        echo: true,
        logprobs: 1,
        return_token_ids: true,
      }),
    )
  ).json();
  t.match(stopped, {
    choices: [
      {
        text: "abc",
        token_ids: [97, 98, 99, 100],
        finish_reason: "stop",
        score: -1,
        logprobs: { token_logprobs: [null, -0.25, -0.5, -0.5] },
      },
    ],
    usage: { completion_tokens: 4 },
  });
  const stop = engine.submitted[1]!.beamStop!;
  t.equal(stop.after(100), null);
  t.equal(stop.after(120)?.after(121), null);
  t.not(stop.after(120)?.after(120), null);
});

t.test("a choice ends at a special token's name, as at any stop string, and at ids", async (t) => {
  const { fastify, engine } = await withPrefix(t);
  // "abc", the special token 256, "d".
  engine.script = (_, choice, k) => [97, 98, 99, 256, 100][k]! + (k === 0 ? choice : 0);
  const body = { prompt: "x", max_new_tokens: 5, return_token_ids: true, ignore_eos: true };
  const ends = { choices: [{ text: "abc", token_ids: [97, 98, 99, 256], finish_reason: "stop" }] };
  for (const stop of [
    { stop: "<|endoftext|>" },
    { stop: ["zz", "<|endoftext|>"] },
    { stop_token_ids: [7, 256, 7] },
    { stop: "c!", stop_token_ids: [256] },
  ]) {
    t.match((await fastify.inject(post("/generate", { ...body, ...stop }))).json(), ends);
    const streamed = (await fastify.inject(post("/generate", { ...body, ...stop, stream: true }))).payload;
    t.match(streamed, /"token_ids":\[256\],"finish_reason":"stop"/);
    t.match(
      streamed
        .match(/"text":"[^"]*"/g)!
        .map((text) => text.slice(8, -1))
        .join(""),
      /^abc$/,
    );
  }
  t.match((await fastify.inject(post("/generate", { ...body, stop: "c<|endoftext|>d" }))).json(), {
    choices: [{ text: "ab", token_ids: [97, 98, 99, 256, 100], finish_reason: "stop" }],
  });
  t.match(
    (await fastify.inject(post("/generate", { ...body, ignore_eos: false, stop_token_ids: [256] }))).json(),
    { choices: [{ text: "abc", finish_reason: "eos" }] },
    "what ends the text by itself is its end",
  );
  t.match(
    (
      await fastify.inject(
        post("/generate", { ...body, stop_token_ids: [98], n: 2, do_sample: true, echo: true, logprobs: 0 }),
      )
    ).json(),
    {
      choices: [
        {
          text: "xa",
          token_ids: [120, 97, 98],
          logprobs: { token_logprobs: [null, -0.5, -0.5] },
          finish_reason: "stop",
        },
        { text: "x", token_ids: [120, 98], finish_reason: "stop" },
      ],
    },
  );
  t.match(
    (
      await fastify.inject(post("/generate", { ...body, stop_token_ids: [99], best_of: 2, n: 1, do_sample: true }))
    ).json(),
    { choices: [{ text: "ab", finish_reason: "stop" }] },
  );

  const beams = (
    await fastify.inject(post("/generate", { ...body, stop_token_ids: [98], num_beams: 2, stop: "<|endoftext|>" }))
  ).json<object>();
  t.match(beams, { choices: [{ text: "a", token_ids: [97, 98], finish_reason: "stop" }] });
  const stop = engine.submitted.at(-1)!.beamStop!;
  t.same([stop.after(98), stop.after(256)], [null, null]);
  t.not(stop.after(97), null);
  for (const [bad, code] of [
    [[257], "invalid_token_id"],
    [[-1], "invalid_parameter"],
    [[0.5], "invalid_parameter"],
    [5, "invalid_parameter"],
    [Array(17).fill(1), "invalid_parameter"],
  ]) {
    t.match((await fastify.inject(post("/generate", { ...body, stop_token_ids: bad }))).json(), {
      status: 400,
      code,
      detail: /^stop_token_ids/,
    });
  }
});

t.test("beam search takes transformers' parameters and returns the sequences' scores", async (t) => {
  const { fastify, engine } = await withPrefix(t);
  const response = await fastify.inject(
    post("/generate", {
      ...PROMPT,
      num_beams: 3,
      n: 2,
      length_penalty: 0.5,
      early_stopping: "never",
      min_new_tokens: 1,
      stop: [],
    }),
  );
  t.match(engine.submitted[0], {
    n: 2,
    beams: { numBeams: 3, lengthPenalty: 0.5, earlyStopping: "never" },
    sampling: { doSample: false, minNewTokens: 1 },
  });
  const body: unknown = response.json();
  t.same(Compile(GenerateResponse).Errors(body), []);
  t.match(
    body,
    {
      choices: [
        { index: 0, text: "cde", score: -1 },
        { index: 1, text: "def", score: -2 },
      ],
      usage: { completion_tokens: 9 },
    },
    "what no choice shows is counted as well",
  );
  await fastify.inject(post("/generate", { ...PROMPT, num_beams: 2 }));
  t.match(engine.submitted[1], { n: 1, beams: { numBeams: 2, lengthPenalty: 1, earlyStopping: false } });
  await fastify.inject(
    post("/generate", { ...PROMPT, num_beams: 1, length_penalty: 2, early_stopping: true, best_of: 1, echo: false }),
  );
  t.match(engine.submitted[2], { n: 1, beams: null, scorePrompt: false });
});

t.test("best_of returns the likeliest choices of each prompt, by mean log probability", async (t) => {
  const { fastify, engine } = await buildTestApp(t);
  // Choice 2 is likeliest, then 0; choice 1 ends early, so that its sum is the largest and its mean the smallest.
  engine.script = (_, choice, k) => (choice === 1 && k === 0 ? 256 : 65 + choice);
  engine.logprob = (choice) => [-0.5, -0.9, -0.4][choice]!;
  const body = { prompts: ["a", "b"], best_of: 3, n: 2, do_sample: true, max_new_tokens: 3, logprobs: 0 };
  const answer = (await fastify.inject(post("/generate", body))).json<{
    choices: { index: number; text: string; score: number }[];
    usage: object;
  }>();
  t.same(Compile(GenerateResponse).Errors(answer), []);
  t.same(
    answer.choices.map(({ index, text }) => [index, text]),
    [
      [0, "CCC"],
      [1, "AAA"],
      [2, "CCC"],
      [3, "AAA"],
    ],
  );
  for (const [index, score] of [-0.4, -0.5, -0.4, -0.5].entries())
    t.ok(Math.abs(answer.choices[index]!.score - score) < 1e-9);
  t.same(answer.usage, { prefix_tokens: 0, prompt_tokens: 2, completion_tokens: 14 }, "all that was drawn");
  t.same(
    engine.submitted.map(({ n }) => n),
    [3, 3],
  );
});
