/** What may be written under a JSON schema: always JSON that ajv finds valid. */
import addFormats from "ajv-formats";
import { Ajv2020, type AnySchema } from "ajv/dist/2020.js";
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { effort } from "../support/effort.ts";
import { randomNumbers } from "../text/support.ts";
import { randomSchema } from "./random-schema.ts";
import { REFUSED_SCHEMAS } from "./refused-schemas.ts";
import { SCHEMAS } from "./schemas.ts";
import { accepts, acceptsBytes, compiled, demoTokenizer, sampleText, treeOf, untried } from "./support.ts";

const TEXTS = effort({ short: 2, long: 80 });

const tokenizer = await demoTokenizer();
const tree = treeOf(tokenizer);

function validator(schema: unknown): (value: unknown) => boolean {
  const ajv = new Ajv2020({ strict: false });
  (addFormats as unknown as (ajv: Ajv2020) => void)(ajv);
  const validate = ajv.compile(schema as AnySchema);
  return (value) => validate(value) === true;
}

t.test("texts of each schema", async (t) => {
  let written = 0;
  for (const [index, { name, schema, accepts: yes, narrower = [], rejects }] of SCHEMAS.entries()) {
    const grammar = compiled({ kind: "json", schema }, tree);
    const valid = validator(schema);
    for (const text of yes) {
      if (!accepts(grammar, tokenizer.encode(text))) t.fail(`${name}: ${text} cannot be written`);
      if (!valid(JSON.parse(text))) t.fail(`${name}: ajv finds ${text} not valid`);
    }
    for (const text of narrower) {
      if (accepts(grammar, tokenizer.encode(text))) t.fail(`${name}: ${text} can be written`);
      if (!valid(JSON.parse(text))) t.fail(`${name}: ajv finds ${text} not valid`);
    }
    for (const text of rejects) if (accepts(grammar, tokenizer.encode(text))) t.fail(`${name}: ${text} can be written`);
    const random = randomNumbers(index + 1);
    for (let i = 0; i < TEXTS; i++) {
      const bytes = sampleText(grammar, random);
      if (bytes === null) continue;
      written++;
      const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      if (!valid(JSON.parse(text))) t.fail(`${name}: wrote ${text}`);
    }
  }
  const enforced = SCHEMAS.length;
  t.ok(enforced >= 60, `${enforced} schemas`);
  t.ok(written >= enforced * TEXTS * 0.7, `${written} texts`);
});

t.test("what is not enforced is refused, with a pointer to it", async (t) => {
  for (const { name, schema, error } of REFUSED_SCHEMAS) {
    try {
      compiled({ kind: "json", schema }, tree);
      t.fail(`${name} is not refused`);
    } catch (thrown) {
      if (!(thrown instanceof PrefixdError)) throw thrown;
      const place = /^At (the root|\S+) of/.exec(thrown.message)?.[1] ?? "";
      t.equal(`${thrown.code} ${place}`.trim(), error, name);
    }
  }
});

t.test("the canonical text of any valid value can be written", async (t) => {
  const random = randomNumbers(11);
  const pick = <T>(...values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const text = (): string =>
    Array.from({ length: Math.floor(random() * 8) }, () =>
      pick("a", "é", "日", "😀", '"', "\\", "\n", "\u0007", "\u007f", " ", "/"),
    ).join("");
  const value = (depth: number): unknown => {
    const kind = Math.floor(random() * (depth > 3 ? 4 : 6));
    if (kind === 0) return pick(null, true, false);
    if (kind === 1) return Math.round((random() - 0.5) * 10 ** pick(1, 4, 9, 14));
    if (kind === 2) return Number(((random() - 0.5) * 1000).toFixed(pick(1, 3, 6)));
    if (kind === 3) return text();
    const items = Array.from({ length: Math.floor(random() * 4) }, () => value(depth + 1));
    return kind === 4 ? items : Object.fromEntries(items.map((item) => [text(), item]));
  };
  const spaced = (one: unknown): string =>
    Array.isArray(one)
      ? `[${one.map(spaced).join(", ")}]`
      : typeof one === "object" && one !== null
        ? `{${Object.entries(one)
            .map(([name, inner]) => `${JSON.stringify(name)}: ${spaced(inner)}`)
            .join(", ")}}`
        : JSON.stringify(one);
  const grammar = compiled({ kind: "json", schema: true }, tree);
  for (let i = 0; i < effort({ short: 200, long: 5000 }); i++) {
    const one = value(0);
    for (const form of [JSON.stringify(one), spaced(one)]) if (!accepts(grammar, tokenizer.encode(form))) t.fail(form);
  }
  t.notOk(accepts(grammar, tokenizer.encode("{]")));
});

t.test("numbers: what may be written is what lies within the bounds", async (t) => {
  const random = randomNumbers(5);
  const bound = (): number =>
    Number(((random() - 0.5) * 10 ** Math.floor(random() * 5)).toFixed(Math.floor(random() * 3)));
  for (let i = 0; i < effort({ short: 20, long: 1000 }); i++) {
    const [a, b] = [bound(), bound()];
    const names = [
      ["minimum", "exclusiveMinimum"][Math.floor(random() * 2)]!,
      ["maximum", "exclusiveMaximum"][Math.floor(random() * 2)]!,
    ];
    const type = random() < 0.5 ? "integer" : "number";
    const schema = { type, [names[0]!]: Math.min(a, b), [names[1]!]: Math.max(a, b) };
    const valid = validator(schema);
    let grammar;
    try {
      grammar = compiled({ kind: "json", schema }, tree);
    } catch (error) {
      if (!(error instanceof PrefixdError)) throw error;
      // Nothing between them, as far as can be seen.
      t.notOk(type === "number" && b - a > 0.01 && a - b > 0.01, JSON.stringify(schema));
      continue;
    }
    const near = [a, b, 0].flatMap((one) => [
      one,
      one + 1,
      one - 1,
      one + 0.01,
      one - 0.01,
      one * 10,
      one / 10,
      Math.round(one),
    ]);
    for (const one of near.map((value) => Number(value.toFixed(4)))) {
      const text = Object.is(one, -0) ? "0" : JSON.stringify(one);
      if (accepts(grammar, tokenizer.encode(text)) !== valid(one)) t.fail(`${text} under ${JSON.stringify(schema)}`);
    }
    for (let j = 0; j < 5; j++) {
      const bytes = sampleText(grammar, random);
      if (bytes !== null && !valid(JSON.parse(Buffer.from(bytes).toString())))
        t.fail(`${Buffer.from(bytes).toString()} under ${JSON.stringify(schema)}`);
    }
  }
});

t.test("random schemas: whatever is accepted is valid, also after a change of some bytes", async (t) => {
  const random = randomNumbers(11);
  let [schemas, texts, changed] = [0, 0, 0];
  for (let round = 0; round < effort({ short: 25, long: 500 }); round++) {
    const schema = randomSchema(random);
    let grammar;
    try {
      grammar = untried({ kind: "json", schema }, tree);
    } catch (error) {
      // Not enforced, or nothing is valid.
      if (!(error instanceof PrefixdError)) throw error;
      continue;
    }
    schemas++;
    const valid = validator(schema);
    const check = (bytes: Uint8Array): void => {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
      if (!valid(JSON.parse(text))) t.fail(`${text} under ${JSON.stringify(schema)}`);
    };
    for (let i = 0; i < 3; i++) {
      const bytes = sampleText(grammar, random, 200);
      if (bytes === null) continue;
      texts++;
      check(bytes);
      for (let j = 0; j < 30; j++) {
        const from = Math.floor(random() * bytes.length);
        const inserted = Buffer.from(
          Array.from({ length: Math.floor(random() * 3) }, () =>
            ' "0123456789-.,:{}[]eE\\nab'.charCodeAt(Math.floor(random() * 27)),
          ),
        );
        const other = Buffer.concat([
          bytes.subarray(0, from),
          inserted,
          bytes.subarray(from + Math.floor(random() * 3)),
        ]);
        if (other.equals(bytes) || !acceptsBytes(grammar, other)) continue;
        changed++;
        check(other);
      }
    }
  }
  t.ok(schemas > 5 && texts > 10 && changed > 10, `${schemas} schemas, ${texts} texts, ${changed} changed ones`);
});
