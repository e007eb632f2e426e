/** The model's generation_config.json: what of it becomes a default of requests, what stops a start, and who has the last word. */
import t from "tap";
import { Compile } from "typebox/compile";
import { generationDefaults } from "../../../src/http/generate/defaults.ts";
import { GenerationConfigFields, type GenerationDefaults } from "../../../src/http/generate/defaults-schema.ts";
import { ModelDocument } from "../../../src/http/model/schema.ts";
import { buildTestApp, post } from "../../support/app.ts";

const read = (file: object): GenerationDefaults =>
  generationDefaults(file as Record<string, unknown>, { vocabSize: 257, maxN: 4 });

const EVERY = {
  max_new_tokens: 9,
  min_new_tokens: 2,
  do_sample: true,
  temperature: 0.7,
  top_h: 0.9,
  top_k: 5,
  top_p: 0.8,
  min_p: 0.1,
  typical_p: 0.9,
  epsilon_cutoff: 0.01,
  eta_cutoff: 0.02,
  repetition_penalty: 1.2,
  no_repeat_ngram_size: 3,
  bad_words_ids: [[1, 2], [3]],
  sequence_bias: [[[4], 1.5]],
  suppress_tokens: [5],
  begin_suppress_tokens: [6],
  forced_bos_token_id: 7,
  forced_eos_token_id: [256],
  exponential_decay_length_penalty: [3, 1.1],
  renormalize_logits: true,
  num_return_sequences: 2,
  num_beams: 3,
  length_penalty: 0.5,
  early_stopping: "never",
  stop_strings: ["x"],
};

t.test("every default reaches the engine where the request has none; null means transformers' default", async (t) => {
  t.same(
    Object.keys(EVERY).sort(),
    Object.keys(GenerationConfigFields.properties)
      .filter((name) => !/^m(ax|in)_length$/.test(name))
      .sort(),
    "every one is tried",
  );
  const defaults = read(EVERY);
  const { fastify, engine } = await buildTestApp(t, { defaults });
  const response = await fastify.inject(post("/generate", { prompt: [1] }));
  t.equal(response.statusCode, 200, response.payload);
  t.match(engine.submitted[0], {
    n: 2,
    maxNewTokens: 9,
    beams: { numBeams: 3, lengthPenalty: 0.5, earlyStopping: "never" },
    sampling: {
      minNewTokens: 2,
      doSample: true,
      temperature: 0.7,
      topH: 0.9,
      topK: 5,
      topP: 0.8,
      minP: 0.1,
      typicalP: 0.9,
      epsilonCutoff: 0.01,
      etaCutoff: 0.02,
      repetitionPenalty: 1.2,
      noRepeatNgramSize: 3,
      badWords: [[1, 2], [3]],
      sequenceBias: [{ ids: [4], bias: 1.5 }],
      suppressIds: [5],
      beginSuppressIds: [6],
      forcedBosId: 7,
      forcedLast: { ids: [256], index: 8 },
      exponentialDecay: { start: 3, factor: 1.1 },
      renormalize: true,
    },
  });
  t.equal(engine.submitted[0]?.beamStop?.after("x".charCodeAt(0)), null);
  t.same(read(Object.fromEntries(Object.keys(EVERY).map((name) => [name, null]))), {});
  const told = (await fastify.inject({ url: "/model" })).json<{ generation_defaults: unknown }>();
  t.same(told.generation_defaults, { ...defaults });
  t.match(told.generation_defaults, { n: 2, bad_words: [[1, 2], [3]], stop: ["x"] }, "by the names of requests");
  t.same(Compile(ModelDocument).Errors(told), []);
});

t.test("a request's values override the file's, also those that switch off", async (t) => {
  const { fastify, engine } = await buildTestApp(t, { defaults: read(EVERY) });
  const off = {
    prompt: [1, 2],
    max_new_tokens: 3,
    min_new_tokens: 0,
    do_sample: false,
    repetition_penalty: 1,
    no_repeat_ngram_size: 0,
    bad_words: [],
    sequence_bias: [],
    suppress_tokens: [],
    begin_suppress_tokens: [],
    forced_eos_token_id: [],
    exponential_decay_length_penalty: [0, 1],
    renormalize_logits: false,
    n: 1,
    num_beams: 1,
    stop: [],
  };
  t.equal((await fastify.inject(post("/generate", off))).statusCode, 200);
  t.match(engine.submitted[0], {
    n: 1,
    maxNewTokens: 3,
    beams: null,
    beamStop: null,
    sampling: {
      minNewTokens: 0,
      doSample: false,
      repetitionPenalty: 1,
      noRepeatNgramSize: 0,
      badWords: [],
      sequenceBias: [],
      suppressIds: [],
      beginSuppressIds: [],
      forcedLast: null,
      exponentialDecay: { factor: 1 },
      renormalize: false,
    },
  });
  t.equal(
    (await fastify.inject(post("/generate", { prompt: "ab", logit_bias: { 4: 2 }, ignore_eos: true }))).statusCode,
    200,
  );
  t.match(
    engine.submitted[1]?.sampling,
    { logitBias: new Map([[4, 2]]), sequenceBias: [], exponentialDecay: null },
    "what would only be in the way gives way",
  );
  t.equal(
    (await fastify.inject(post("/generate", { prompt: "ab", max_new_tokens: 0, echo: true, logprobs: 0 }))).statusCode,
    200,
  );
  t.match(
    engine.submitted[2],
    { n: 1, beams: null, maxNewTokens: 0 },
    "nothing is generated, so nothing is chosen from",
  );
});

t.test("a request made impossible by defaults is told which, and that they are the model's", async (t) => {
  const beams = await buildTestApp(t, {
    defaults: read({ num_beams: 4, num_return_sequences: 2, max_new_tokens: 8, suppress_tokens: [9] }),
  });
  const cases: [object, RegExp][] = [
    [
      { stream: true },
      /^num_beams > 1 cannot be streamed.*\(generation_config\.json\): num_beams 4; send other values\.$/,
    ],
    [{ num_beams: 1 }, /^n > 1 needs do_sample.*: n 2;/],
    [{ best_of: 3 }, /^best_of cannot be used with num_beams.*num_beams 4, n 2;/],
    [{ best_of: 1 }, /^best_of must be >= n.*: n 2;/],
    [{ n: 3, num_beams: 2 }, /^n must be <= num_beams: a beam search returns at most num_beams results\.$/],
    [{ min_new_tokens: 9 }, /^min_new_tokens must be <= max_new_tokens.*: max_new_tokens 8;/],
    [{ forced_eos_token_id: 9 }, /^forced_eos_token_id forces what suppress_tokens forbids.*: suppress_tokens \[9\];/],
  ];
  for (const [body, detail] of cases)
    t.match(
      (await beams.fastify.inject(post("/generate", { prompt: "ab", ...body }))).json(),
      { status: 400, code: "invalid_parameter", detail },
      JSON.stringify(body),
    );
  t.equal(
    (await beams.fastify.inject(post("/generate", { prompt: "ab", stream: true, num_beams: 1, n: 1 }))).statusCode,
    200,
  );
});

t.test("requested lengths must fit, defaults are cut; max_length and min_length count the prompt", async (t) => {
  const lengths = async (file: object, ...bodies: object[]): Promise<unknown[]> => {
    const { fastify, engine, registry } = await buildTestApp(t, { defaults: read(file) });
    await registry.register({ user: "local", name: "p" }, { kind: "hard", ids: Int32Array.of(1, 2, 3) });
    const told = [];
    for (const body of bodies) {
      const before = engine.submitted.length;
      const response = await fastify.inject(post("/generate", { prompt: "a".repeat(10), ...body }));
      const { code } = response.json<{ code?: string }>();
      told.push(
        code ??
          engine.submitted.slice(before).flatMap(({ maxNewTokens, sampling }) => [maxNewTokens, sampling.minNewTokens]),
      );
    }
    return told;
  };
  const long = { prompt: "a".repeat(58), prefix_id: "p" };
  t.same(
    await lengths({}, {}, long, { ...long, prompts: ["a", "a".repeat(60)], prompt: undefined }),
    [
      [20, 0],
      [4, 0],
      [20, 0, 2, 0],
    ],
    "positions 64",
  );
  t.same(
    await lengths(
      { max_new_tokens: 500 },
      {},
      long,
      { ...long, max_new_tokens: 5 },
      { ...long, min_new_tokens: 4 },
      { ...long, min_new_tokens: 5 },
    ),
    [[55, 0], [4, 0], "context_exceeded", [4, 4], "context_exceeded"],
  );
  t.same(
    await lengths(
      { max_length: 12 },
      {},
      { prompt: "a" },
      { prompt: "a".repeat(12) },
      { prompt: "a".repeat(12), max_new_tokens: 2 },
      { min_new_tokens: 3 },
    ),
    [[2, 0], [11, 0], "context_exceeded", [2, 0], "context_exceeded"],
  );
  t.same(await lengths({ max_length: 500 }, long), [[4, 0]]);
  t.same(
    await lengths({ max_length: 12, max_new_tokens: 6, min_length: 20, min_new_tokens: 1 }, {}),
    [[6, 1]],
    "those that do not count the prompt come first",
  );
  t.same(
    await lengths({ min_length: 14 }, {}, { prompt: "a".repeat(20) }, { min_new_tokens: 2 }, { max_new_tokens: 1 }),
    [
      [20, 4],
      [20, 0],
      [20, 2],
      [1, 4],
    ],
  );
  t.same(
    await lengths({ min_new_tokens: 30 }, {}, { max_new_tokens: 2 }),
    [
      [20, 30],
      [2, 30],
    ],
    "a default that asks for more than there may be: no EOS until the end, as in transformers",
  );
  const { fastify, engine } = await buildTestApp(t, { defaults: read({ forced_eos_token_id: 256 }) });
  await fastify.inject(post("/generate", { prompts: ["a", "a".repeat(60)] }));
  t.same(
    engine.submitted.map(({ sampling }) => sampling.forcedLast?.index),
    [19, 4],
    "the last token is the one that is left",
  );
});

t.test("a file that cannot be applied stops the start, naming the setting", async (t) => {
  const refused: [object, string, RegExp][] = [
    [
      { guidance_scale: 1.5 },
      "model_unsupported",
      /guidance_scale 1\.5 is not supported \(it runs a second.*--generation-config none/,
    ],
    [{ penalty_alpha: 0.6 }, "model_unsupported", /penalty_alpha 0\.6/],
    [{ num_beam_groups: 2 }, "model_unsupported", /num_beam_groups 2/],
    [{ diversity_penalty: 0.5 }, "model_unsupported", /diversity_penalty 0\.5/],
    [{ watermarking_config: { bias: 2 } }, "model_unsupported", /watermarking_config \{"bias":2\}/],
    [{ constraints: [] }, "model_unsupported", /constraints \[\]/],
    [{ force_words_ids: [[1]] }, "model_unsupported", /force_words_ids/],
    [{ dola_layers: "high" }, "model_unsupported", /dola_layers "high"/],
    [{ encoder_repetition_penalty: 2 }, "model_unsupported", /encoder_repetition_penalty 2/],
    [{ remove_invalid_values: true }, "model_unsupported", /remove_invalid_values true/],
    [{ max_time: 3 }, "model_unsupported", /max_time 3/],
    [{ token_healing: true }, "model_unsupported", /token_healing true/],
    [{ quantum_penalty: 3 }, "model_unsupported", /quantum_penalty 3 is not known/],
    [{ constructor: 1 }, "model_unsupported", /constructor 1 is not known/],
    [{ temperature: "hot" }, "model_invalid", /temperature must be number/],
    [{ temperature: -1 }, "model_invalid", /temperature must be >= 0/],
    [{ top_p: 2 }, "model_invalid", /top_p must be <= 1/],
    [{ max_new_tokens: 0 }, "model_invalid", /max_new_tokens must be >= 1/],
    [{ max_length: 1.5 }, "model_invalid", /max_length must be integer/],
    [{ num_beams: 17 }, "model_invalid", /num_beams must be <= 16/],
    [{ early_stopping: "soon" }, "model_invalid", /early_stopping/],
    [{ bad_words_ids: [["a"]] }, "model_invalid", /bad_words_ids\[0\]\[0\] must be integer/],
    [{ bad_words_ids: [[1, 257]] }, "model_invalid", /bad_words_ids has the id 257; token ids are 0 to 256/],
    [{ sequence_bias: [[[999], 1]] }, "model_invalid", /sequence_bias has the id 999/],
    [{ suppress_tokens: [300] }, "model_invalid", /suppress_tokens has the id 300/],
    [{ forced_eos_token_id: [1, 300] }, "model_invalid", /forced_eos_token_id has the id 300/],
    [{ stop_strings: 5 }, "model_invalid", /stop_strings must be/],
    [{ num_return_sequences: 2 }, "model_unsupported", /sets nothing would be refused: n > 1 needs do_sample/],
    [{ num_beams: 8 }, "model_unsupported", /num_beams must be <= 4 on this server/],
    [
      { forced_bos_token_id: 5, suppress_tokens: [5] },
      "model_unsupported",
      /forced_bos_token_id forces what suppress_tokens forbids/,
    ],
  ];
  for (const [file, code, message] of refused) {
    t.throws(
      () => read(file),
      { name: "ModelLoadError", code, message: new RegExp(`^generation_config\\.json: .*${message.source}`) },
      JSON.stringify(file),
    );
  }
});

t.test("settings without effect are accepted", async (t) => {
  const file = {
    _from_model_config: true,
    bos_token_id: 256,
    eos_token_id: [256],
    pad_token_id: -1,
    transformers_version: "5.18.0",
    use_cache: false,
    output_attentions: true,
    return_dict_in_generate: true,
    cache_implementation: "static",
    compile_config: {},
    guidance_scale: 1.0,
    num_beam_groups: 1,
    diversity_penalty: 0.0,
    encoder_no_repeat_ngram_size: 0,
    remove_invalid_values: false,
    penalty_alpha: 0,
    max_time: null,
    constraints: null,
    num_assistant_tokens: 20,
    prompt_lookup_num_tokens: 3,
    generation_kwargs: {},
    forced_decoder_ids: null,
    low_memory: null,
    decoder_start_token_id: 3,
  };
  t.same(read(file), {});
});
