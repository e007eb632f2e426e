import t from "tap";
import { Compile } from "typebox/compile";
import type { AppParts } from "../../../src/http/app-parts.ts";
import { DetokenizeResponse, MOST_TOKENS, TokenizeResponse, TokenizerInfo } from "../../../src/http/tokens/schema.ts";
import { ChatTemplate } from "../../../src/text/chat-template.ts";
import { loadTokenizer, type Tokenizer } from "../../../src/text/tokenizer.ts";
import { buildTestApp, post, TEST_SHAPE } from "../../support/app.ts";

const plain = await loadTokenizer(new URL("../../../models/demo", import.meta.url).pathname, 4096);
const END = plain.eosId!;
/** The demo's tokenizer with other ids. */
const encodingAs = (encodeInSteps: Tokenizer["encodeInSteps"]): Tokenizer => ({
  ...{ vocabSize: plain.vocabSize, eosId: END, longestToken: plain.longestToken, beyondModel: plain.beyondModel },
  named: plain.named,
  around: { before: [END], after: [] },
  encode: (text) => plain.encode(text),
  encodeInSteps,
  decode: (ids) => plain.decode(ids),
  bytesOf: (id) => plain.bytesOf(id),
  tokenText: (id) => plain.tokenText(id),
  isSpecial: (id) => plain.isSpecial(id),
});
/** One that puts a token before each prompt. */
const tokenizer = encodingAs(function* (text, special) {
  const ids = yield* plain.encodeInSteps(text);
  return Int32Array.from(special ? [END, ...ids] : ids);
});

t.test("text to ids, token texts and counts, and back", async (t) => {
  const { fastify } = await buildTestApp(t, { tokenizer, shape: { ...TEST_SHAPE, vocabSize: 4096 } });
  const send = async <T>(url: string, body: object): Promise<T> => (await fastify.inject(post(url, body))).json<T>();
  const text = "once upon a time<|endoftext|>caf\u00e9 \u{1f600}";
  interface Tokens {
    readonly tokens: number[];
    readonly count: number;
    readonly token_strs: string[];
  }
  const bare = await send<Tokens>("/tokenize", { prompt: text, add_special_tokens: false, return_token_strs: true });
  t.same([...Compile(TokenizeResponse).Errors(bare)], []);
  t.same(bare.tokens, [...plain.encode(text)]);
  t.match(bare, { count: bare.tokens.length, count_without_special_tokens: bare.count - 1, max_model_len: 64 });
  t.same(bare.token_strs.slice(0, 2), ["on", "ce"]);
  t.ok(bare.token_strs.includes("<|endoftext|>"));
  const whole = await send<Tokens>("/tokenize", { prompt: text, model: "any" });
  t.same(whole.tokens, [END, ...bare.tokens]);
  t.match(whole, { count: bare.count + 1, count_without_special_tokens: bare.count - 1 });
  t.notMatch(whole, { token_strs: [] });
  const back = await send<object>("/detokenize", { tokens: bare.tokens });
  t.same([...Compile(DetokenizeResponse).Errors(back)], []);
  t.same(back, { prompt: text });
  t.same(await send("/detokenize", { tokens: bare.tokens, skip_special_tokens: true }), {
    prompt: text.replace("<|endoftext|>", ""),
  });
  t.match(await send("/tokenize", { prompt: "", add_special_tokens: false }), { count: 0, tokens: [] });
  t.match(await send("/detokenize", { tokens: [] }), { prompt: "" });
  t.match(await send("/tokenize", { prompt: "a ".repeat(1000) }), { count: 1002 }, "more than the model takes");
});

t.test("what the tokenizer's special tokens are", async (t) => {
  const info = async (parts: Partial<AppParts>): Promise<object> => {
    const { fastify } = await buildTestApp(t, { tokenizer, ...parts });
    const answer = (await fastify.inject("/tokenizer_info")).json<object>();
    t.same([...Compile(TokenizerInfo).Errors(answer)], []);
    return answer;
  };
  const chat = new ChatTemplate("{{ messages[0].content }}", new Map(), "a template");
  const names = { tokenizer_class: "GPT2Tokenizer", model_max_length: 64, eos_token: "<|endoftext|>" };
  t.match(await info({ chat }), { ...names, chat_template: "{{ messages[0].content }}" });
  t.match(await info({ chat: null }), { ...names, chat_template: undefined });
  const named = new Map([
    ["pad_token", "<pad>"],
    ["additional", "<x>"],
  ]);
  t.same(await info({ chat: null, tokenizer: { ...tokenizer, named } }), {
    ...names,
    eos_token: null,
    pad_token: "<pad>",
  });
});

t.test("bad input is refused, naming the field", async (t) => {
  const { fastify } = await buildTestApp(t, {
    limits: { requestBody: 1 << 20, answer: 1, maxN: 1, slots: 1, queue: 1 },
  });
  for (const [url, body, status, code, detail] of [
    ["/tokenize", {}, 400, "invalid_request", /lacks "prompt"/],
    ["/tokenize", { prompt: ["a"] }, 400, "invalid_parameter", /^prompt must be string/],
    ["/tokenize", { text: "a" }, 400, "unknown_field", /Did you mean "prompt"/],
    ["/tokenize", { prompt: "a".repeat(MOST_TOKENS + 1) }, 400, "invalid_parameter", /^prompt has 65537 bytes/],
    ["/detokenize", {}, 400, "invalid_request", /lacks "tokens"/],
    ["/detokenize", { tokens: [1, -1] }, 400, "invalid_parameter", /^tokens\[1\] must be >= 0/],
    ["/detokenize", { tokens: [1, 257] }, 400, "invalid_token_id", /^tokens\[1\] is 257/],
    ["/detokenize", { tokens: Array(MOST_TOKENS + 1).fill(1) }, 400, "invalid_parameter", /^tokens has 65537 ids/],
    ["/detokenize", { tokens: "a" }, 400, "invalid_parameter", /^tokens must be array/],
  ] as const) {
    const answer = await fastify.inject(post(url, body));
    t.match([answer.statusCode, answer.json()], [status, { code, detail }]);
  }
});

t.test("one text per user at a time; too many are told to wait", async (t) => {
  let running = 0;
  let most = 0;
  const slow = encodingAs(function* () {
    most = Math.max(most, ++running);
    for (let step = 0; step < 5; step++) yield step;
    running--;
    return Int32Array.of(1);
  });
  const { fastify } = await buildTestApp(t, { tokenizer: slow });
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => fastify.inject(post("/tokenize", { prompt: "a" }))),
  );
  t.equal(most, 1);
  const refused = answers.filter(({ statusCode }) => statusCode !== 200);
  t.equal(refused.length, 20 - 17, "one runs, sixteen wait");
  for (const { statusCode, headers, ...answer } of refused) {
    t.match([statusCode, answer.json()], [429, { code: "queue_full" }]);
    t.match(headers, { "retry-after": "1", ratelimit: '"queue";r=0;t=1' });
  }
});
