/** What may be written under a regular expression: what JavaScript's RegExp matches. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import type { Grammar } from "../../src/structured/automaton/grammar.ts";
import type { ConstraintForm } from "../../src/structured/constraint.ts";
import { effort } from "../support/effort.ts";
import { randomNumbers } from "../text/support.ts";
import { REFUSED, REGEXES } from "./regexes.ts";
import { accepts, acceptsBytes, compiled, demoTokenizer, sampleText, treeOf, untried } from "./support.ts";

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

t.test("random regular expressions match what JavaScript's do", async (t) => {
  const random = randomNumbers(4);
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const characters = [
    "a",
    "b",
    "Z",
    "1",
    "_",
    " ",
    "\n",
    "-",
    "\\",
    '"',
    "\u0001",
    "é",
    "\u2028",
    "日",
    "\uffff",
    "😀",
    "\u{10ffff}",
  ];
  const literal = (inClass: boolean): string => {
    const char = pick(characters);
    if (random() < 0.15) return `\\u{${char.codePointAt(0)!.toString(16)}}`;
    return char === "\\" || (inClass && char === "-") ? `\\${char}` : char;
  };
  const charClass = (): string => {
    const [low, high] = [pick(characters), pick(characters)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!);
    const range = [low!, high!].map((char) => `\\u{${char.codePointAt(0)!.toString(16)}}`).join("-");
    const parts = [literal(true), range, pick(["\\d", "\\W", "\\s", "\\S"]), ""].filter(() => random() < 0.5);
    return `[${pick(["", "", "^"])}${parts.join("")}]`;
  };
  const atom = (depth: number): string => {
    const kind = random();
    if (depth > 0 && kind < 0.35) return `${pick(["(", "(?:"])}${alternatives(depth - 1)})`;
    if (kind < 0.5) return charClass();
    return kind < 0.65 ? pick([".", "\\d", "\\D", "\\w", "\\W", "\\s", "\\S", "\\n", "\\x61"]) : literal(false);
  };
  const quantifier = (): string => pick(["", "", "", "?", "*", "+", "{2}", "{0,2}", "{1,}", "{0}", "*?", "{1,2}?"]);
  const sequence = (depth: number): string =>
    Array.from({ length: Math.floor(random() * 4) }, () => atom(depth) + quantifier()).join("");
  function alternatives(depth: number): string {
    return Array.from({ length: pick([1, 1, 2, 3]) }, () => sequence(depth)).join("|");
  }
  const texts = [
    ...characters,
    ...Array.from({ length: 60 }, () =>
      Array.from({ length: 2 + Math.floor(random() * 4) }, () => pick(characters)).join(""),
    ),
  ];
  /** null: nothing matches, or the empty text only. */
  const grammarOf = (form: ConstraintForm): Grammar | null => {
    try {
      return untried(form, tree);
    } catch (error) {
      if (error instanceof PrefixdError && error.code === "constraint_invalid") return null;
      throw error;
    }
  };
  /** null: there are more ways to read it than may be. */
  const tried = (grammar: Grammar | null, text: string): boolean | null => {
    try {
      return grammar !== null && acceptsBytes(grammar, Buffer.from(text));
    } catch (error) {
      if (error instanceof PrefixdError && error.code === "constraint_too_complex") return null;
      throw error;
    }
  };
  let [accepted, refused, complex] = [0, 0, 0];
  for (let round = 0; round < effort({ short: 100, long: 1500 }); round++) {
    const source = `${pick(["", "", "^"])}${alternatives(2)}${pick(["", "", "$"])}`;
    const [whole, part] = [new RegExp(`^(?:${source})$`, "u"), new RegExp(source, "u")];
    const plain = grammarOf({ kind: "regex", source });
    const json = grammarOf({ kind: "json", schema: { type: "string", pattern: source } });
    for (const text of texts) {
      const accepts = tried(plain, text);
      const inJson = tried(json, JSON.stringify(text));
      if (accepts === null || inJson === null) {
        complex++;
        continue;
      }
      if (accepts !== whole.test(text)) t.fail(`${source} and ${JSON.stringify(text)}, whole`);
      if (inJson !== part.test(text)) t.fail(`${source} and ${JSON.stringify(text)}, in part`);
      if (accepts) accepted++;
      else refused++;
    }
  }
  t.ok(accepted > 500 && refused > 500, `${accepted} accepted, ${refused} refused`);
  t.ok(complex < (accepted + refused) / 50, `${complex} too complex`);
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
