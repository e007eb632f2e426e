/** What a tokenizer puts around prompts, and tokens that it has and the model has not. */
import t, { type Test } from "tap";
import type { GenerateResponse } from "../../../src/http/generate/answer-schema.ts";
import { buildTestApp, post, TEST_SHAPE, type TestApp } from "../../support/app.ts";
import { FakeTokenizer } from "../../support/fake-tokenizer.ts";

const [BOS, EOS, PAD] = [256, 10, 257];

/** Bytes as tokens; prompts get BOS and EOS, and `~` stands for a token without a row in the model. Nothing is left of `|`. */
class SurroundingTokenizer extends FakeTokenizer {
  override readonly around = { before: [BOS], after: [EOS, EOS] };
  override readonly beyondModel = new Map([[PAD, "[PAD]"]]);

  override encode(text: string, addSpecialTokens = false): Int32Array {
    const ids = [...super.encode(text.replaceAll("|", ""))].map((id) => (id === "~".charCodeAt(0) ? PAD : id));
    return Int32Array.from(addSpecialTokens ? [...this.around.before, ...ids, ...this.around.after] : ids);
  }
}

const app = (t: Test): Promise<TestApp> => buildTestApp(t, { tokenizer: new SurroundingTokenizer() });

t.test("a text prompt gets the tokenizer's special tokens; ids stay as they are", async (t) => {
  const { fastify, engine } = await app(t);
  const ask = async (body: object): Promise<[number[], GenerateResponse]> => {
    const response = await fastify.inject(
      post("/generate", { max_new_tokens: 1, echo: true, return_token_ids: true, ...body }),
    );
    t.equal(response.statusCode, 200);
    return [[...engine.submitted.at(-1)!.promptIds], response.json<GenerateResponse>()];
  };
  const [ids, { usage, choices }] = await ask({ prompt: "ab" });
  t.same(ids, [BOS, 97, 98, EOS, EOS]);
  t.equal(usage.prompt_tokens, 5);
  t.same(choices[0]!.token_ids?.slice(0, 5), ids, "echo shows what was fed");
  t.match(choices[0]!.text, /^ab\n\n/, "a special token has no text");
  t.same((await ask({ prompt: "ab", add_special_tokens: true }))[0], ids);
  t.same((await ask({ prompt: "ab", add_special_tokens: false }))[0], [97, 98]);
  t.same((await ask({ prompt: [97, 98] }))[0], [97, 98]);
  t.same((await ask({ prompt: "" }))[0], [BOS, EOS, EOS], "an empty text is a prompt then");
  await ask({ prompts: ["a", [98]] });
  t.same(
    engine.submitted.slice(-2).map(({ promptIds }) => [...promptIds]),
    [[BOS, 97, EOS, EOS], [98]],
  );
});

t.test("bad words and hard prompts get none", async (t) => {
  const { fastify, engine, registry } = await app(t);
  t.equal((await fastify.inject(post("/generate", { prompt: "a", bad_words: ["no"], stop: "x" }))).statusCode, 200);
  t.same(engine.submitted[0]?.sampling.badWords, [
    [110, 111],
    [32, 110, 111],
  ]);
  t.equal((await fastify.inject({ method: "PUT", url: "/prefixes/h", payload: { text: "abc" } })).statusCode, 201);
  t.equal((await registry.info({ user: "local", name: "h" })).length, 3);
});

t.test("special tokens count against the positions", async (t) => {
  const { fastify } = await app(t);
  const longest = TEST_SHAPE.positions - 3;
  t.equal(
    (await fastify.inject(post("/generate", { prompt: "a".repeat(longest), max_new_tokens: 1 }))).statusCode,
    200,
  );
  t.match((await fastify.inject(post("/generate", { prompt: "a".repeat(longest + 1), max_new_tokens: 1 }))).json(), {
    code: "context_exceeded",
    detail: "prompt is at least 65 tokens long; the model takes 64.",
  });
  t.equal(
    (
      await fastify.inject(
        post("/generate", { prompt: "a".repeat(longest + 3), max_new_tokens: 1, add_special_tokens: false }),
      )
    ).statusCode,
    200,
  );
});

t.test("GET /model names the special tokens", async (t) => {
  const { fastify } = await app(t);
  t.same((await fastify.inject("/model")).json<{ special_tokens: object }>().special_tokens, {
    before: [BOS],
    after: [EOS, EOS],
  });
});

t.test("refusals", async (t) => {
  const { fastify } = await app(t);
  const beyond = (name: string): RegExp =>
    new RegExp(
      `^${name} has "\\[PAD\\]", whose id is 257: the tokenizer knows it, but the model's token ids are 0 to 256\\.$`,
    );
  const cases: [object, string, RegExp][] = [
    [{ prompt: "a~" }, "invalid_token_id", beyond("prompt")],
    [{ prompts: ["a", "~"] }, "invalid_token_id", beyond("prompts\\[1\\]")],
    [{ prompt: "a", bad_words: ["b", "~"] }, "invalid_token_id", beyond("bad_words\\[1\\]")],
    [{ prompt: [PAD] }, "invalid_token_id", /^prompt\[0\] is 257/],
    [{ prompt: "a", bad_words: [[PAD]] }, "invalid_token_id", /^bad_words\[0\]\[0\] is 257/],
    [{ prompt: "a", logit_bias: { [PAD]: 1 } }, "invalid_token_id", /^logit_bias has the key "257"/],
    [{ prompt: "", add_special_tokens: false }, "empty_prompt", /^prompt is empty/],
    [{ prompt: "|", add_special_tokens: false }, "empty_prompt", /^prompt is empty/],
    [{ prompt: "a", bad_words: [" |", "|"] }, "invalid_parameter", /^bad_words\[1\] has no tokens/],
    [{ prompt: "a", add_special_tokens: 1 }, "invalid_parameter", /^add_special_tokens must be boolean/],
  ];
  for (const [body, code, detail] of cases) {
    t.match(
      (await fastify.inject(post("/generate", body))).json(),
      { status: 400, code, detail },
      JSON.stringify(body),
    );
  }
  const hard = await fastify.inject({ method: "PUT", url: "/prefixes/h", payload: { text: "~" } });
  t.match(hard.json(), { status: 400, code: "invalid_token_id", detail: beyond("text") });
});
