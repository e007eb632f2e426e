/**
 * A mask is exactly the tokens that may come, however it was found, and never leads into a dead end. On the demo's vocabulary, on GPT-2's, whose
 * merges are in test/golden, and on a made one that is more awkward than either.
 */
import t from "tap";
import type { Grammar } from "../../src/structured/automaton/grammar.ts";
import type { State } from "../../src/structured/automaton/state.ts";
import { LISTED } from "../../src/structured/automaton/token-mask.ts";
import { TokenTree } from "../../src/structured/automaton/token-tree.ts";
import type { ConstraintForm } from "../../src/structured/constraint.ts";
import { DEFAULT_LIMITS } from "../../src/structured/limits.ts";
import { effort } from "../support/effort.ts";
import { gpt2Tokens } from "../support/gpt2-vocabulary.ts";
import { randomNumbers } from "../text/support.ts";
import { REGEXES } from "./regexes.ts";
import { SCHEMAS } from "./schemas.ts";
import { accepts, allowedIds, compiled, demoTokenizer, maskOf, treeOf, untried } from "./support.ts";

const demo = treeOf(await demoTokenizer());

/**
 * A vocabulary of as many tokens as GPT-2's, with all that is awkward: every byte, parts of characters, quotes and escapes within words,
 * tokens of the same bytes, special tokens without bytes, very long tokens.
 */
function madeVocabulary(): TokenTree {
  const random = randomNumbers(3);
  const pieces = [
    "a",
    "e",
    "st",
    "ing",
    " ",
    "é",
    "日",
    "😀",
    '"',
    "\\",
    "\n",
    ",",
    ":",
    "{",
    "}",
    "[",
    "1",
    "07",
    "-",
    ".",
    "true",
    "null",
    '": "',
    '",',
  ];
  const tokens = Array.from({ length: 256 }, (_, byte) => Uint8Array.of(byte));
  while (tokens.length < 50_257) {
    const text = Buffer.from(
      Array.from({ length: 1 + Math.floor(random() * 6) }, () => pieces[Math.floor(random() * pieces.length)]!).join(
        "",
      ),
    );
    const cut = random() < 0.02 ? 1 : 0;
    tokens.push(Uint8Array.from(text.subarray(cut)));
  }
  tokens[50_000] = new Uint8Array(0);
  tokens[50_001] = Uint8Array.from(tokens[300]!);
  tokens[50_002] = Uint8Array.from(tokens[300]!);
  tokens[50_003] = Buffer.from(" ".repeat(300));
  return new TokenTree(tokens);
}

const FORMS: readonly ConstraintForm[] = [
  ...SCHEMAS.map(({ schema }) => ({ kind: "json", schema }) as const),
  ...REGEXES.map(([source]) => ({ kind: "regex", source }) as const),
  { kind: "choice", texts: ["positive", "negative", " neutral", "é", "日本", "", "a", "ab", "abc", "xbc"] },
];

/** States along a text written at random. */
function* walk(grammar: Grammar, random: () => number, steps: number): Generator<State> {
  let state = grammar.start;
  for (let step = 0; step < steps; step++) {
    yield state;
    const allowed = allowedIds(grammar, state);
    if (allowed.length === 0) return;
    state = grammar.advance(state, allowed[Math.floor(random() * allowed.length)]!)!;
  }
}

/** Compares a mask with trying each token by itself. Returns what is wrong. */
function differences(grammar: Grammar, state: State): string[] {
  const mask = maskOf(grammar, state, 97);
  const wrong: string[] = [];
  let count = 0;
  for (let id = 0; id < grammar.tree.vocabSize; id++) {
    const may = grammar.advance(state, id) !== null;
    count += Number(may);
    if (mask.has(id) !== may) wrong.push(`token ${id} ${may ? "may" : "may not"} come`);
  }
  if (mask.count !== count) wrong.push(`${count} tokens, and the mask says ${mask.count}`);
  if ((mask.ids === null) !== count > LISTED) wrong.push(`${count} tokens, listed or not`);
  if (count === 0 && !(state.final && state.complete)) wrong.push("a dead end");
  return wrong;
}

t.test("masks equal single tokens' tests, on the demo's vocabulary", async (t) => {
  const random = randomNumbers(7);
  let states = 0;
  for (const form of FORMS.filter((_, index) => index % effort({ short: 2, long: 1 }) === 0)) {
    const grammar = compiled(form, demo);
    for (const state of walk(grammar, random, effort({ short: 4, long: 30 }))) {
      states++;
      for (const wrong of differences(grammar, state)) t.fail(`${JSON.stringify(form)}: ${wrong}`);
    }
  }
  t.ok(states > 100, `${states} states`);
});

t.test("the same on a made vocabulary of GPT-2's size", async (t) => {
  const tree = madeVocabulary();
  const random = randomNumbers(8);
  const forms: ConstraintForm[] = [
    {
      kind: "json",
      schema: {
        type: "object",
        properties: { a: { type: "string" }, b: { type: "string", maxLength: 3 } },
        required: ["a", "b"],
      },
    },
    { kind: "json", schema: { type: "string", minLength: 2, maxLength: 40 } },
    {
      kind: "json",
      schema: {
        anyOf: [
          { type: "string", maxLength: 2 },
          { type: "string", pattern: "^[a-e]+$" },
        ],
      },
    },
    { kind: "regex", source: "[^\\n]{1,30}|日+" },
  ];
  for (const form of forms) {
    const grammar = compiled(form, tree);
    for (const state of walk(grammar, random, effort({ short: 3, long: 20 })))
      for (const wrong of differences(grammar, state)) t.fail(`${JSON.stringify(form)}: ${wrong}`);
    t.equal(grammar.advance(grammar.start, 50_000), null, "a token without bytes never comes");
  }
});

t.test("the same on GPT-2's own vocabulary", async (t) => {
  const tree = new TokenTree(gpt2Tokens());
  const random = randomNumbers(9);
  const forms: readonly ConstraintForm[] = [
    { kind: "choice", texts: ["book flight", "book hotel", " weather", "日本", "don't know", "a\nb"] },
    { kind: "regex", source: "(\\d{4}-\\d{2}-\\d{2}|[^\\d\\s]+ ?){1,9}" },
    { kind: "json", schema: { type: "object" } },
    {
      kind: "json",
      schema: {
        type: "object",
        properties: {
          intent: { enum: ["book flight", "weather"] },
          minutes: { type: "number", minimum: -1.5, maximum: 90 },
          note: { type: "string", maxLength: 12 },
          tags: { type: "array", items: { type: "string", pattern: "^[a-z]+$" }, maxItems: 2 },
        },
        required: ["intent", "minutes", "note"],
      },
    },
    { kind: "json", schema: { type: "string", pattern: '^(.{2,5}|[é-日]*"x)$' } },
  ];
  let states = 0;
  for (const form of forms) {
    const grammar = compiled(form, tree);
    // Answers can be shorter than that.
    for (let answer = 0; answer < effort({ short: 1, long: 8 }); answer++)
      for (const state of walk(grammar, random, effort({ short: 3, long: 8 }))) {
        states++;
        for (const wrong of differences(grammar, state)) t.fail(`${JSON.stringify(form)}: ${wrong}`);
      }
  }
  t.ok(states >= effort({ short: 10, long: 100 }), `${states} states`);
});

t.test("a mask costs the same work however it is cut, and whatever was made before", async (t) => {
  const form = {
    kind: "json",
    schema: { type: "object", properties: { a: { type: "string", pattern: "^[^x]*y" } } },
  } as const;
  const at = (grammar: Grammar): State => {
    const ids = [...'{"a": "q'].map((char) => char.charCodeAt(0));
    return ids.reduce((state, byte) => grammar.step(state, byte)!, grammar.start);
  };
  const cold = untried(form, demo);
  const warm = compiled(form, demo);
  for (const state of walk(warm, randomNumbers(1), 20)) maskOf(warm, state);
  const [a, b] = [maskOf(cold, at(cold), 7), maskOf(warm, at(warm), 1e9)];
  t.equal(a.work, b.work);
  t.same(allowedIds(cold, at(cold)), allowedIds(warm, at(warm)));
  t.ok(a.work > 100);
});

t.test("a walk stops after its share of work, and goes on", async (t) => {
  const grammar = untried({ kind: "regex", source: "[^x]{1,50}" }, demo);
  let calls = 0;
  let most = 0;
  for (; grammar.start.mask === null; calls++) most = Math.max(most, grammar.workOn(grammar.start, 200));
  t.ok(calls > 10, `${calls} calls`);
  t.ok(most < 200 + 2 * DEFAULT_LIMITS.ways, `${most} units at most`);
  t.same(differences(grammar, grammar.start), []);
});

t.test("all strings share the states and the plain tokens", async (t) => {
  const properties = Object.fromEntries(Array.from({ length: 5 }, (_, i) => [`p${i}`, { type: "string" }]));
  const grammar = compiled(
    { kind: "json", schema: { type: "object", properties, required: Object.keys(properties) } },
    demo,
  );
  const inside = [...'{"p0": "'].reduce((state, char) => grammar.step(state, char.charCodeAt(0))!, grammar.start);
  const mask = maskOf(grammar, inside);
  t.ok(mask.count > 3000);
  t.ok(mask.work < 600, `${mask.work} units: only tokens with quotes, escapes or parts of characters are walked`);
});

t.test("a vocabulary that lacks a byte never begins what it cannot end", async (t) => {
  // No token is the quote alone, and none is the last byte of é.
  const tokens = [..."abc{}[]:,0123456789 "].map((char) => Buffer.from(char));
  const tree = new TokenTree([...tokens, Buffer.from('"'), Buffer.from([0xc3]), Buffer.from("aé")]);
  const grammar = compiled({ kind: "regex", source: "(a|aé|é)b?" }, tree);
  t.same(allowedIds(grammar, grammar.start), [0]);
  t.throws(() => compiled({ kind: "regex", source: "é" }, tree), { code: "constraint_invalid" });
  t.ok(accepts(grammar, [0, 1]));
});

t.test("a full table starts anew, and states in use stay valid", async (t) => {
  const form = { kind: "regex", source: "([a-z]{1,9} ){1,40}" } as const;
  const small = compiled(form, demo, { ...DEFAULT_LIMITS, grammarBytes: 20_000 });
  const large = compiled(form, demo);
  const random = randomNumbers(2);
  let [a, b] = [small.start, large.start];
  for (let step = 0; step < 60; step++) {
    const ids = allowedIds(small, a);
    t.same(ids, allowedIds(large, b));
    if (ids.length === 0) break;
    const id = ids[Math.floor(random() * ids.length)]!;
    [a, b] = [small.advance(a, id)!, large.advance(b, id)!];
  }
  t.ok(small.bytes < large.bytes);
});

t.test("states take bounded memory, also within one walk and where candidates always decide", async (t) => {
  // Every text of another pattern of letters is another state, of hundreds of configurations.
  const form = { kind: "regex", source: "([ -~]?){100}[a-m][ -~]{20}" } as const;
  const most = 1024 ** 2;
  const grammar = untried(form, demo, { ...DEFAULT_LIMITS, grammarBytes: most });
  const one = untried(form, demo);
  let peak = 0;
  while (grammar.start.mask === null) {
    grammar.workOn(grammar.start, 2000);
    peak = Math.max(peak, grammar.bytes);
  }
  t.ok(peak > most, `${peak} bytes at most: it needs more than it may keep`);
  t.ok(peak < 1.5 * most, `${peak} bytes at most`);
  t.same(allowedIds(grammar, grammar.start), allowedIds(one, one.start));
  t.equal(maskOf(grammar, grammar.start).work, maskOf(one, one.start).work, "and the work is the same");
  const tried = untried(form, demo, { ...DEFAULT_LIMITS, grammarBytes: most });
  for (let id = 0; id < demo.vocabSize; id++) {
    tried.advance(tried.start, id);
    peak = Math.max(peak, tried.bytes);
  }
  t.ok(peak < 1.5 * most, `${peak} bytes at most`);
});
