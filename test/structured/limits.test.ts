/** Hostile constraints: refused, or bounded work. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import type { ConstraintForm } from "../../src/structured/constraint.ts";
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
const properties = (count: number): unknown =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`p${i}`, {}]));
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
