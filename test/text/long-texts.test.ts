/** Texts that are encoded in steps: no ids but those of the whole text, and no step of a length that grows with the text. */
import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import t from "tap";
import { mergeWord } from "../../src/text/long-words.ts";
import { readTokenizerFiles } from "../../src/text/tokenizer-files.ts";
import { chunksOf, readNormalizer } from "../../src/text/tokenizer-json.ts";
import { loadTokenizer, STRETCH } from "../../src/text/tokenizer.ts";
import { effort } from "../support/effort.ts";
import { threadTime, turnBudget } from "../support/event-loop.ts";
import { lacking } from "../support/requirements.ts";
import { randomNumbers } from "./support.ts";

const DEMO = "models/demo";
const tokenizer = await loadTokenizer(DEMO, 4096);
const { json } = await readTokenizerFiles(DEMO);
type Library = new (
  json: object,
  config: object,
) => {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  pre_tokenizer(text: string): string[];
  model: { bpe(word: string): string[]; bpe_ranks: ReadonlyMap<string, number> };
};
const library = new (HuggingFaceTokenizer as unknown as Library)(json, {});

const ALPHABETS = [
  "ab",
  "the",
  " a",
  "a1!' ",
  "'sl re'",
  "don't ",
  "\u00c3\u00c2",
  "e\u0301 ",
  "\u{1f600} x",
  "\u0085\ufeff\u00a0 a\n\t",
  "0123 456",
  "caf\u00e9\u4e2d\u6587 .,",
  "once upon a time ",
].map((text) => Array.from(text));

t.test("chunks split into the words of the whole, and steps give its ids", (t) => {
  const random = randomNumbers(23);
  const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)]!;
  let cuts = 0;
  for (let round = 0; round < effort({ short: 100, long: 300 }); round++) {
    // Runs of one alphabet, so that there are long words as well as many short ones.
    let text = "";
    while (text.length < 3000) {
      const [alphabet, length] = [pick(ALPHABETS), 1 + Math.floor(random() ** 4 * 4000)];
      for (let i = 0; i < length; i++) text += pick(alphabet);
    }
    const chunks = [...chunksOf(text, 1 + Math.floor(random() * 200))];
    cuts += chunks.length - 1;
    if (chunks.join("") !== text) t.fail(`${round}: chunks`);
    const [whole, inChunks] = [library.pre_tokenizer(text), chunks.flatMap((chunk) => library.pre_tokenizer(chunk))];
    if (whole.length !== inChunks.length || whole.some((word, i) => word !== inChunks[i]))
      t.fail(`words of ${JSON.stringify(text.slice(0, 300))}`);
    if (round % 10 === 0) t.same([...tokenizer.encode(text)], library.encode(text, { add_special_tokens: false }).ids);
  }
  t.ok(cuts > 5000, `${cuts} cuts`);
  t.end();
});

t.test("a long word is merged as a short one is", (t) => {
  const random = randomNumbers(29);
  const rankOf = (left: string, right: string): number | undefined =>
    library.model.bpe_ranks.get(JSON.stringify([left, right]));
  const merge = (word: string): string[] => {
    const steps = mergeWord(word, rankOf);
    for (;;) {
      const { done, value } = steps.next();
      if (done === true) return value;
    }
  };
  for (let round = 0; round < 400; round++) {
    const alphabet = ALPHABETS[round % ALPHABETS.length]!.filter((letter) => /[a-z]/.test(letter)).concat("e", "t");
    const word = Array.from(
      { length: Math.floor(random() * (round % 20 === 0 ? 3000 : 60)) },
      () => alphabet[Math.floor(random() * alphabet.length)],
    ).join("");
    t.same(merge(word), library.model.bpe(word));
  }
  const text = "the".repeat(STRETCH);
  t.same([...tokenizer.encode(text)], library.encode(text, { add_special_tokens: false }).ids, "longer than a stretch");
  t.end();
});

t.test(
  "each step says how many ids there will be at least, and takes no longer in a longer text",
  { skip: lacking("thread-time") },
  async (t) => {
    for (const text of ["the", "a1!", " a", "\u00c3\u00c2", "once upon a time ", " ", "\u{1f600} "]) {
      const long = text.repeat(Math.floor(131_072 / Buffer.byteLength(text)));
      let steps = 0;
      let ids: Int32Array = new Int32Array();
      let bounds: number[] = [];
      const run = (): number => {
        const generator = tokenizer.encodeInSteps(long);
        [steps, bounds] = [0, []];
        for (let longest = 0; ; steps++) {
          const before = threadTime();
          const { done, value } = generator.next();
          longest = Math.max(longest, threadTime() - before);
          if (done === true) {
            ids = value;
            return longest;
          }
          bounds.push(value);
        }
      };
      run();
      let share = Infinity;
      for (let attempt = 0; attempt < 3 && share > 1; attempt++) share = Math.min(share, run() / turnBudget());
      t.ok(
        share <= 1,
        `${JSON.stringify(text)}: the longest of ${steps} steps took ${(100 * share).toFixed(0)} % of the budget`,
      );
      t.ok(steps > 20 && bounds.every((bound) => bound <= ids.length));
    }
  },
);

t.test("a whole text in lower case is its characters in lower case, wherever they stand", (t) => {
  const lowercase = readNormalizer({ type: "Lowercase" }, "normalizer")!;
  const one = (text: string): string => Array.from(text, (character) => character.toLowerCase()).join("");
  // No planes beyond have letters with case.
  const every = Array.from({ length: 0x20000 }, (_, code) => (code >> 11 === 27 ? "" : String.fromCodePoint(code)));
  for (const text of [every.join("aΣ"), "ΌΔΟΣ. Σ", "İI\u0307"]) t.ok(lowercase(text) === one(text));
  t.end();
});
