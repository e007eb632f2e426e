import { copyFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { writeCheckpoint } from "../model/checkpoint-fixture.ts";
import { randomNumbers } from "./support.ts";

interface Golden {
  readonly eos_token_id: number;
  readonly encode: readonly { readonly text: string; readonly ids: readonly number[] }[];
  readonly decode: readonly { readonly ids: readonly number[]; readonly text: string; readonly bytes: string }[];
}

const golden = JSON.parse(await readFile("test/golden/tokenizer-cases.json", "utf8")) as Golden;

async function oldFiles(dir: string): Promise<string> {
  for (const name of ["vocab.json", "merges.txt", "tokenizer_config.json"])
    await copyFile(join("models/demo", name), join(dir, name));
  return dir;
}

t.test("agrees with Hugging Face's tokenizer, from either kind of files", async (t) => {
  for (const dir of ["models/demo", await oldFiles(t.testdir())]) {
    const tokenizer = await loadTokenizer(dir, 4096);
    t.equal(tokenizer.eosId, golden.eos_token_id);
    // Named by number: some texts have line ends of TAP in them.
    for (const [i, { text, ids }] of golden.encode.entries()) t.same([...tokenizer.encode(text)], ids, `encode ${i}`);
    for (const [i, { ids, text, bytes }] of golden.decode.entries()) {
      t.equal(tokenizer.decode(ids), text, `decode ${i}`);
      t.equal(Buffer.concat(ids.map((id) => tokenizer.bytesOf(id))).toString("hex"), bytes);
    }
  }
});

t.test("white space is Unicode's: U+0085 is, U+FEFF is not", async (t) => {
  // A merge over the border shows where words end: " " + C2 and "!" + EF are one token only within a word.
  const json = JSON.parse(await readFile("models/demo/tokenizer.json", "utf8")) as {
    model: { vocab: Record<string, number>; merges: unknown[] };
  };
  json.model.vocab["<|endoftext|>"] = 4095;
  json.model.vocab["\u0120\u00c2"] = 4096;
  json.model.vocab["!\u00ef"] = 4097;
  json.model.merges.push(["\u0120", "\u00c2"], ["!", "\u00ef"]);
  const tokenizer = await loadTokenizer(await writeCheckpoint(t.testdir(), { "tokenizer.json": json }), 4098);
  t.ok(tokenizer.encode("a \u00b5").includes(4096), "the merge works within a word");
  t.notOk(
    tokenizer.encode("a \u0085b").includes(4096),
    "U+0085 is white space, so the blank before it is a word of its own",
  );
  t.ok(tokenizer.encode("!\ufeff").includes(4097), "U+FEFF is no white space, so it continues the word");
});

t.test("encoding and decoding give back any text", async (t) => {
  const tokenizer = await loadTokenizer("models/demo", 4096);
  const random = randomNumbers(1);
  const ranges = [
    [0, 0x7f],
    [0, 0x2ff],
    [0x2000, 0x206f],
    [0x3040, 0x30ff],
    [0xfe00, 0xffff],
    [0x1f300, 0x1f6ff],
    [0x85, 0x86],
  ] as const;
  for (let round = 0; round < 500; round++) {
    const text = Array.from({ length: Math.floor(random() * 40) }, () => {
      const [low, high] = ranges[Math.floor(random() * ranges.length)] ?? [32, 126];
      return String.fromCodePoint(low + Math.floor(random() * (high - low + 1)));
    }).join("");
    const ids = tokenizer.encode(text);
    if (tokenizer.decode(ids) !== text) t.fail(JSON.stringify(text));
    if (Buffer.byteLength(text) > ids.length * tokenizer.longestToken) t.fail("longestToken");
  }
  t.equal(tokenizer.decode(tokenizer.encode("a\ud800b")), "a\ufffdb", "a lone surrogate has no bytes");
});

t.test("time is linear in the text, whatever it is", async (t) => {
  // A second or two where it is; with one nanosecond for every pair of characters a single text would take 90.
  t.setTimeout(60_000);
  const tokenizer = await loadTokenizer("models/demo", 4096);
  for (const piece of [
    "a",
    " ",
    "\n",
    "the",
    "=",
    "-",
    "'l",
    "\ud55c",
    "0",
    " \n",
    "<|endoftext|",
    "<|endoftext|>",
    "\u0301",
  ]) {
    const text = piece.repeat(300_000 / piece.length);
    const decoded = tokenizer.decode(tokenizer.encode(text));
    t.ok(decoded === (piece === "<|endoftext|>" ? "" : text), JSON.stringify(piece));
    await new Promise(setImmediate);
  }
});

t.test("special and unused ids", async (t) => {
  const tokenizer = await loadTokenizer("models/demo", 5000);
  t.equal(tokenizer.vocabSize, 5000);
  t.ok(tokenizer.isSpecial(4095));
  t.notOk(tokenizer.isSpecial(4094));
  t.equal(tokenizer.bytesOf(4095).length, 0);
  t.equal(tokenizer.tokenText(4095), "<|endoftext|>");
  t.equal(tokenizer.tokenText(220), " ");
  t.equal(tokenizer.tokenText(172), "\ufffd", "a part of a character");
  for (const id of [4096, 4999, 5000, -1])
    t.equal(tokenizer.bytesOf(id).length, 0, "the padded part of the vocabulary has no text");
  t.equal(tokenizer.decode([4999, 32, 4095]), "A");
});

t.test("added tokens", async (t) => {
  const json = JSON.parse(await readFile("models/demo/tokenizer.json", "utf8")) as { added_tokens: object[] };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  json.added_tokens.push(
    { id: 4096, content: "<a b\u00e9>", ...flags, special: false },
    { id: 4097, content: "[PAD]", ...flags, special: true },
  );
  const dir = await writeCheckpoint(t.testdir(), {
    "tokenizer.json": json,
    "tokenizer_config.json": { eos_token: { content: "[PAD]" }, unk_token: "<a b\u00e9>" },
  });
  const tokenizer = await loadTokenizer(dir, 4098);
  t.equal(tokenizer.eosId, 4097);
  t.same([...tokenizer.encode("x<a b\u00e9>[PAD]")].slice(1), [4096, 4097]);
  t.ok(tokenizer.isSpecial(4096), "named in tokenizer_config.json");
  const plain = await loadTokenizer(await writeCheckpoint(t.testdir(), { "tokenizer.json": json }), 4098);
  t.equal(plain.decode([4096, 4097]), "<a b\u00e9>");
  t.equal(plain.eosId, 4095);
});

t.test("a leading space if tokenizer_config.json asks for it", async (t) => {
  const json = JSON.parse(await readFile("models/demo/tokenizer.json", "utf8")) as object;
  const dir = await writeCheckpoint(t.testdir(), {
    "tokenizer.json": json,
    "tokenizer_config.json": { add_prefix_space: true },
  });
  const tokenizer = await loadTokenizer(dir, 4096);
  t.equal(tokenizer.decode(tokenizer.encode("the")), " the");
});

t.test("what cannot be loaded", async (t) => {
  const json = JSON.parse(await readFile("models/demo/tokenizer.json", "utf8")) as {
    model: { vocab: Record<string, number> };
  };
  const vocab = { ...json.model.vocab };
  delete vocab["A"];
  const cases: [Record<string, object>, string, RegExp][] = [
    [{}, "model_not_found", /neither tokenizer\.json nor/],
    [{ "vocab.json": json.model.vocab }, "model_not_found", /merges\.txt/],
    [{ "tokenizer.json": Buffer.from("{") }, "model_invalid", /not valid JSON/],
    [
      { "tokenizer.json": { ...json, model: { ...json.model, type: "Unigram" } } },
      "model_unsupported",
      /^tokenizer\.json: model\.type "Unigram" is not supported$/,
    ],
    [
      { "tokenizer.json": { ...json, decoder: { type: "Metaspace" } } },
      "model_unsupported",
      /^tokenizer\.json: decoder\.type "Metaspace" is not supported$/,
    ],
    [{ "tokenizer.json": { ...json, model: { ...json.model, vocab } } }, "model_unsupported", /byte 65/],
    [
      { "tokenizer.json": { ...json, model: { ...json.model, vocab: { ...vocab, A: "x" } } } },
      "model_invalid",
      /"A" the id "x"/,
    ],
    [{ "tokenizer.json": { ...json, model: 5 } }, "model_invalid", /model is not a JSON object/],
  ];
  for (const [files, code, message] of cases) {
    await t.rejects(loadTokenizer(await writeCheckpoint(t.testdir(), files), 4096), {
      name: "ModelLoadError",
      code,
      message,
    });
  }
});

t.test("tokens that the model has no row for", async (t) => {
  const tokenizer = await loadTokenizer("models/demo", 4094);
  t.same([...tokenizer.beyondModel].sort(), [
    [4094, "\u0120points"],
    [4095, "<|endoftext|>"],
  ]);
  t.equal(tokenizer.eosId, null, "it cannot come");
  t.same([...tokenizer.encode("a<|endoftext|>")], [64, 4095], "who asks must look");
  t.equal(tokenizer.bytesOf(4095).length, 0);
});
