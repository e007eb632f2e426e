/** Hostile constraints: refused, or bounded work. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import type { ConstraintForm } from "../../src/structured/constraint.ts";
import { Network } from "../../src/structured/automaton/network.ts";
import { drawRegex } from "../../src/structured/regex/draw.ts";
import { DEFAULT_LIMITS } from "../../src/structured/limits.ts";
import { Position } from "../../src/structured/position.ts";
import { allowedIds, compiled, demoTokenizer, treeOf } from "./support.ts";

const tokenizer = await demoTokenizer();
const tree = treeOf(tokenizer);

const nested = (levels: number, around: (inner: unknown) => unknown): unknown => {
  let schema: unknown = { type: "string" };
  for (let level = 0; level < levels; level++) schema = around(schema);
  return schema;
};
const json = (schema: unknown): ConstraintForm => ({ kind: "json", schema });
const properties = (count: number, schema: unknown = {}): unknown =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, schema]));
/** A2 is A1 or A1, and so on: twice as many ways with each. */
const doubling = Object.fromEntries(
  Array.from({ length: 30 }, (_, i) => [
    `A${i}`,
    i === 0
      ? { type: "string" }
      : { type: "array", prefixItems: [{ $ref: `#/$defs/A${i - 1}` }, { $ref: `#/$defs/A${i - 1}` }], items: false },
  ]),
);

const CASES: readonly (readonly [name: string, form: ConstraintForm, code: string | null])[] = [
  ["(x+x+)+y", { kind: "regex", source: "(x+x+)+y" }, null],
  ["(a{1,1000}){1,1000}", { kind: "regex", source: "(a{1,1000}){1,1000}" }, "constraint_too_complex"],
  ["counts within counts", { kind: "regex", source: "((((a{1,9}){1,9}){1,9}){1,9}){1,9}" }, "constraint_too_complex"],
  ["exponential as a deterministic automaton", { kind: "regex", source: "(a|b)*a(a|b){40}" }, null],
  ["many ways", { kind: "regex", source: "(.*,){1,400}x" }, null],
  ["more ways than may be", { kind: "regex", source: "(a?){1,2000}b" }, "constraint_too_complex"],
  ["101 groups deep", { kind: "regex", source: `${"(".repeat(101)}a${")".repeat(101)}` }, "constraint_unsupported"],
  ["anyOf 30 deep", json(nested(30, (inner) => ({ anyOf: [inner, { const: 1 }] }))), null],
  ["arrays 30 deep", json(nested(30, (items) => ({ type: "array", items }))), null],
  ["arrays 5,000 deep", json(nested(5000, (items) => ({ type: "array", items }))), "constraint_too_complex"],
  ["arrays that must be 80 deep", json(nested(48, (items) => ({ type: "array", items, minItems: 1 }))), null],
  [
    "100,000 choices",
    {
      kind: "choice",
      texts: Array.from({ length: 100_000 }, (_, i) => `${(i * 7919) % 1_000_003} and ${(i * 104_729) % 999_983}`),
    },
    "constraint_too_complex",
  ],
  ["$ref to itself", json({ $ref: "#" }), "constraint_invalid"],
  ["5,000 optional properties", json({ type: "object", properties: properties(5000) }), "constraint_too_complex"],
  ["100 optional properties", json({ type: "object", properties: properties(100) }), null],
  ["maxLength 1,000,000", json({ type: "string", maxLength: 1_000_000 }), "constraint_too_complex"],
  ["minItems 1,000,000", json({ type: "array", minItems: 1_000_000 }), "constraint_too_complex"],
  ["a shortest text of 2^29 strings", json({ $defs: doubling, $ref: "#/$defs/A29" }), "constraint_invalid"],
  ["2^12 strings", json({ $defs: doubling, $ref: "#/$defs/A12" }), null],
  [
    "two texts with a long common beginning",
    { kind: "choice", texts: ["a", "b"].map((end) => `${"long ".repeat(3000)}${end}`) },
    "constraint_too_complex",
  ],
  [
    "the same, as short as they may be",
    { kind: "choice", texts: ["a", "b"].map((end) => `${"x".repeat(5000)}${end}`) },
    null,
  ],
  [
    "half a million ways to read nothing",
    json({ type: "object", properties: properties(30, { type: "string", pattern: `^(${"|".repeat(190)}){90}$` }) }),
    "constraint_too_complex",
  ],
];

t.test("what it costs to compile and try", async (t) => {
  for (const [name, form, code] of CASES) {
    let got: string | null = null;
    try {
      const grammar = compiled(form, tree);
      t.ok(grammar.work < 3_000_000, `${name}: ${grammar.work} units`);
      t.ok(grammar.bytes < 24 * 1024 ** 2, `${name}: ${grammar.bytes} bytes`);
      // And the first steps of a text.
      let state = grammar.start;
      for (let step = 0; step < 5 && !state.final; step++)
        state = grammar.advance(state, allowedIds(grammar, state)[0]!)!;
    } catch (error) {
      if (!(error instanceof PrefixdError)) throw error;
      got = error.code;
    }
    t.equal(got, code, name);
  }
});

t.test("trying tokens one by one takes bounded work at a time, and comes to an end", async (t) => {
  const form = { kind: "regex", source: "([ -~]?){200}[a-m][ -~]{20}" } as const;
  // Too little memory to keep what is found, so that nothing is found once and for all.
  const grammar = compiled(form, tree, { ...DEFAULT_LIMITS, grammarBytes: 100_000 });
  const [letter] = tokenizer.encode("a") as unknown as [number];
  const next = Position.start(grammar, 1e9).after(letter);
  const ids = Array.from({ length: 64 }, (_, i) => 300 + 37 * i);
  let [waits, id] = [0, 0];
  let most = 0;
  while (id < ids.length) {
    const before = grammar.work;
    for (id = 0; id < ids.length && next.allows(ids[id]!) !== null; ) id++;
    most = Math.max(most, grammar.work - before);
    if (id < ids.length) waits++;
    if (id < ids.length) t.equal(next.work(5_000), 5_000);
    if (waits > 1000) throw new Error("it never ends");
  }
  t.ok(waits > 2, `${waits} waits`);
  // The last try may go beyond.
  t.ok(most < 8_000 + 20 * DEFAULT_LIMITS.ways, `${most} units at most`);
  t.notOk(next.ready);
  while (!next.ready) next.work(100_000);
  const state = grammar.advance(grammar.start, letter)!;
  const wrong = ids.filter((one) => next.allows(one) !== (grammar.advance(state, one) !== null));
  t.same(wrong, []);
});

t.test("a set that is repeated is named once, however large it is", async (t) => {
  let named = 0;
  const set = Object.assign(
    [
      [0x100, 0x100],
      [0x200, 0x200],
    ] as const,
    { join: () => `set ${named++}` },
  );
  const net = new Network(1000);
  const { start, end } = net.rule();
  drawRegex(net, { kind: "repeat", item: { kind: "set", set }, min: 0, max: 100 }, start, end, "plain");
  t.equal(named, 1);
});

t.test("a chain of references is followed once", async (t) => {
  let followed = 0;
  const links = Object.fromEntries(
    Array.from({ length: 100 }, (_, i) => [
      `d${i}`,
      Object.defineProperty({}, "$ref", { enumerable: true, get: () => (followed++, `#/$defs/d${i + 1}`) }),
    ]),
  );
  const $defs = { ...links, d100: { type: "string" } };
  compiled(json({ $defs, anyOf: Array.from({ length: 50 }, () => ({ $ref: "#/$defs/d0" })) }), tree);
  // Once by each branch's own, and once where the reference is drawn.
  t.ok(followed < 4 * 100, `${followed} times`);
});

t.test("a mask that takes too much work is refused, always", async (t) => {
  const form = { kind: "regex", source: "[^x]{1,50}" } as const;
  for (let attempt = 0; attempt < 2; attempt++)
    t.throws(() => compiled(form, tree, { ...DEFAULT_LIMITS, maskWork: 500 }), { code: "constraint_too_complex" });
});

t.test("a request has so much work, whoever made the masks", async (t) => {
  const grammar = compiled({ kind: "regex", source: "[^x]{1,50}" }, tree);
  const [letter] = tokenizer.encode("a") as unknown as [number];
  const spent = (): number => {
    let position = Position.start(grammar, 20_000);
    for (let tokens = 0; ; tokens++) {
      while (!position.ready) position.work(1000);
      try {
        t.ok(position.mask.count > 0);
      } catch (error) {
        t.match(error, { code: "constraint_too_complex" });
        return tokens;
      }
      position = position.after(letter);
    }
  };
  const cold = spent();
  t.ok(cold > 1, `${cold} tokens`);
  t.equal(spent(), cold, "warm");
});
