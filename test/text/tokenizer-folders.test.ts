import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import t from "tap";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { effort } from "../support/effort.ts";
import { makeTokenizerFolder, type FolderSpec } from "./tokenizer-folders.ts";

interface Golden {
  readonly examples: readonly string[];
  readonly texts: readonly string[];
  readonly folders: readonly (FolderSpec & {
    readonly name: string;
    readonly eos: number | null;
    /** What each added token's id decodes to, special ones skipped. */
    readonly tokens: Readonly<Record<string, string>>;
    /** Of the examples: as prompts, and without special tokens. */
    readonly prompts: readonly (readonly number[])[];
    readonly ids: readonly (readonly number[])[];
    /** Of each text's ids without special tokens 6 characters. */
    readonly digests: string;
  })[];
}

const ROWS = 4104;
/** Of the random texts each folder gets one in so many, other ones than the folder before. */
const EVERY = effort({ short: 4, long: 1 });
const golden = JSON.parse(await readFile("test/golden/tokenizer-folders.json", "utf8")) as Golden;
const digest = (ids: Iterable<number>): string =>
  createHash("sha256")
    .update([...ids].join())
    .digest("hex")
    .slice(0, 6);

for (const [folder, { name, eos, tokens, prompts, ids, digests, ...spec }] of golden.folders.entries()) {
  t.test(`as transformers: ${name}`, async (t) => {
    const tokenizer = await loadTokenizer(await makeTokenizerFolder(t.testdir(), spec), ROWS);
    // GPT-2's own is taken where transformers has none.
    t.equal(tokenizer.eosId, eos ?? 4095);
    t.same(
      Object.keys(tokens).map((id) => tokenizer.decode([Number(id)])),
      Object.values(tokens),
      "which tokens are special",
    );
    for (const [i, text] of golden.examples.entries()) {
      t.same([...tokenizer.encode(text, true)], prompts[i], `prompt ${i}`);
      t.same([...tokenizer.encode(text)], ids[i], `text ${i}`);
    }
    const [wrong, short]: [string[], string[]] = [[], []];
    for (let i = folder % EVERY; i < golden.texts.length; i += EVERY) {
      const text = golden.texts[i]!;
      const encoded = tokenizer.encode(text);
      if (digest(encoded) !== digests.slice(6 * i, 6 * i + 6)) wrong.push(text);
      if (Buffer.byteLength(text) > encoded.length * tokenizer.longestToken) short.push(text);
    }
    t.same(wrong, [], "random texts");
    t.same(short, [], "the bound by the longest token");
  });
}
