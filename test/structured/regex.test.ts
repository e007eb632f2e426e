/** What may be written under a regular expression: what JavaScript's RegExp matches. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { effort } from "../support/effort.ts";
import { randomNumbers } from "../text/support.ts";
import { REFUSED, REGEXES } from "./regexes.ts";
import { accepts, compiled, demoTokenizer, sampleText, treeOf } from "./support.ts";

const TEXTS = effort({ short: 4, long: 120 });

const tokenizer = await demoTokenizer();
const tree = treeOf(tokenizer);

t.test("texts of each regular expression", async (t) => {
  let written = 0;
  for (const [index, [source, texts]] of REGEXES.entries()) {
    const whole = new RegExp(`^(?:${source})$`, "u");
    const grammar = compiled({ kind: "regex", source }, tree);
    for (const text of texts)
      if (accepts(grammar, tokenizer.encode(text)) !== whole.test(text))
        t.fail(`${source} and ${JSON.stringify(text)}`);
    const random = randomNumbers(index + 1);
    for (let i = 0; i < TEXTS; i++) {
      const bytes = sampleText(grammar, random);
      if (bytes === null) continue;
      written++;
      const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      if (!whole.test(text)) t.fail(`${source}: wrote ${JSON.stringify(text)}`);
    }
  }
  t.ok(REGEXES.length >= 40, `${REGEXES.length} regular expressions`);
  t.ok(written >= REGEXES.length * TEXTS * 0.7, `${written} texts`);
});

t.test("the same inside JSON strings, where a match anywhere suffices", async (t) => {
  for (const [index, [source, texts]] of REGEXES.entries()) {
    const part = new RegExp(source, "u");
    let grammar;
    try {
      grammar = compiled({ kind: "json", schema: { type: "string", pattern: source } }, tree);
    } catch (error) {
      if (!(error instanceof PrefixdError)) throw error;
      t.fail(`${source}: ${error.message}`);
      continue;
    }
    for (const text of texts)
      if (accepts(grammar, tokenizer.encode(JSON.stringify(text))) !== part.test(text))
        t.fail(`${source} and ${JSON.stringify(text)}`);
    const random = randomNumbers(index + 1);
    for (let i = 0; i < TEXTS / 3; i++) {
      const bytes = sampleText(grammar, random);
      if (bytes === null) continue;
      const text = JSON.parse(Buffer.from(bytes).toString()) as string;
      if (!part.test(text)) t.fail(`${source}: wrote ${JSON.stringify(text)}`);
    }
  }
  t.ok(REGEXES.length >= 40);
});

t.test("what a finite automaton cannot do is refused, with its position", async (t) => {
  for (const [source, at] of REFUSED) {
    try {
      compiled({ kind: "regex", source }, tree);
      t.fail(`${source} is not refused`);
    } catch (error) {
      if (!(error instanceof PrefixdError)) throw error;
      t.equal(error.code, "constraint_unsupported", source);
      t.match(error.message, ` at character ${at},`, source);
    }
  }
});
