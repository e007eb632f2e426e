/** What transformers does with a tokenizer and this does not do stops the start, and says which part it is. */
import t from "tap";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { makeTokenizerFolder, type FolderSpec } from "./tokenizer-folders.ts";

const STORED = { "tokenizer_config.json": { tokenizer_class: "PreTrainedTokenizerFast" } };
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const ROBERTA = {
  type: "RobertaProcessing",
  cls: ["a", 1],
  sep: ["b", 2],
  trim_offsets: true,
  add_prefix_space: false,
};
const A = { Sequence: { id: "A", type_id: 0 } };
const EOT = { id: 4095, content: "<|endoftext|>", special: true };
type Patch = NonNullable<FolderSpec["patch"]>[number];

/** A tokenizer.json with one part changed, taken as it is. */
const stored = (path: string, value: unknown): FolderSpec => ({
  layout: "new",
  files: STORED,
  patch: [[path.split("."), value] as Patch],
});
const old = (files: Record<string, object>): FolderSpec => ({ layout: "old", files });
const template = (single: unknown[], special_tokens = {}): FolderSpec =>
  stored("post_processor", { type: "TemplateProcessing", single, pair: [], special_tokens });

const honoured = (text: string): RegExp =>
  new RegExp(`^${text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")} is not supported`);
const UNSUPPORTED: readonly (readonly [FolderSpec, RegExp])[] = [
  ...["NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "BertNormalizer", "StripAccents", "ByteLevel"].map(
    (type) => [stored("normalizer", { type }), honoured(`tokenizer.json: normalizer.type "${type}"`)] as const,
  ),
  [
    stored("normalizer", { type: "Sequence", normalizers: [{ type: "NFC" }, { type: "Nmt" }] }),
    honoured('tokenizer.json: normalizer.normalizers[1].type "Nmt"'),
  ],
  [
    stored("normalizer", { type: "Replace", pattern: { Regex: "a+" }, content: "b" }),
    honoured('tokenizer.json: normalizer.pattern.Regex "a+"'),
  ],
  [stored("normalizer", { type: "NFC", form: 7 }), honoured("tokenizer.json: normalizer.form 7")],
  [stored("pre_tokenizer", { type: "Metaspace" }), honoured('tokenizer.json: pre_tokenizer.type "Metaspace"')],
  [
    stored("pre_tokenizer", {
      type: "Sequence",
      pretokenizers: [{ type: "Split", pattern: { Regex: "a" }, behavior: "Isolated", invert: false }, BYTE_LEVEL],
    }),
    honoured('tokenizer.json: pre_tokenizer.pretokenizers[0].type "Split"'),
  ],
  [
    stored("pre_tokenizer", { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }] }),
    honoured('tokenizer.json: pre_tokenizer.pretokenizers[0].type "Digits"'),
  ],
  [
    stored("pre_tokenizer", {
      type: "Sequence",
      pretokenizers: [{ type: "Digits" }, { ...BYTE_LEVEL, add_prefix_space: true }],
    }),
    honoured("tokenizer.json: pre_tokenizer.pretokenizers[1].add_prefix_space true"),
  ],
  [
    stored("pre_tokenizer", { type: "Sequence", pretokenizers: [] }),
    honoured("tokenizer.json: pre_tokenizer.pretokenizers []"),
  ],
  [stored("post_processor", { type: "Other" }), honoured('tokenizer.json: post_processor.type "Other"')],
  [
    stored("post_processor", { type: "Sequence", processors: [ROBERTA, BYTE_LEVEL, ROBERTA] }),
    honoured('tokenizer.json: post_processor.processors[2].type "RobertaProcessing"'),
  ],
  [template([A, A]), honoured(`tokenizer.json: post_processor.single[1] ${JSON.stringify(A)}`)],
  [
    template([{ Sequence: { id: "B", type_id: 0 } }]),
    honoured('tokenizer.json: post_processor.single[0] {"Sequence":{"id":"B","type_id":0}}'),
  ],
  [
    template([{ SpecialToken: { id: "x", type_id: 0 } }], { x: { ids: [1] } }),
    honoured('tokenizer.json: post_processor.single [{"SpecialToken":{"id":"x","type_id":0}}]'),
  ],
  [
    stored("decoder", { type: "Sequence", decoders: [BYTE_LEVEL, { type: "Fuse" }] }),
    /^tokenizer\.json: decoder\.decoders /,
  ],
  [stored("decoder", { type: "WordPiece" }), honoured('tokenizer.json: decoder.type "WordPiece"')],
  [stored("model.type", "WordPiece"), honoured('tokenizer.json: model.type "WordPiece"')],
  [stored("model.dropout", 0.1), honoured("tokenizer.json: model.dropout 0.1")],
  [stored("model.byte_fallback", true), honoured("tokenizer.json: model.byte_fallback true")],
  [stored("model.continuing_subword_prefix", "##"), honoured('tokenizer.json: model.continuing_subword_prefix "##"')],
  [stored("model.end_of_word_suffix", "</w>"), honoured('tokenizer.json: model.end_of_word_suffix "</w>"')],
  [stored("model.scores", [1]), honoured("tokenizer.json: model.scores [1]")],
  [stored("model.vocab.twice", 64), /"twice" the same id, 64$|"twice" and "a" the same id, 64$/],
  [stored("vocabulary", 1), honoured("tokenizer.json: vocabulary 1")],
  [
    stored("added_tokens", [EOT, { id: 4096, content: "x", case_sensitive: true }]),
    honoured("tokenizer.json: added_tokens[1].case_sensitive true"),
  ],
  [
    stored("added_tokens", [EOT, { id: 4100, content: "<x>" }]),
    /^tokenizer\.json: added_tokens\[1\] gives "<x>" the id 4100, which is not supported: .* 4096$/,
  ],
  [
    stored("added_tokens", [EOT, { id: 4096, content: "<x>" }, { id: 4096, content: "<y>" }]),
    /^tokenizer\.json: added_tokens\[2\] gives "<y>" the id 4096, which "<x>" has/,
  ],
  [
    old({ "added_tokens.json": { "<x>": 4096, "<y>": 4098 } }),
    /^added_tokens\.json gives "<y>" the id 4098, which is not supported: .* 4097$/,
  ],
  [
    old({ "added_tokens.json": { "<x>": 4096, "<y>": 4096 } }),
    /^added_tokens\.json gives "<y>" the id 4096, which "<x>" has/,
  ],
  [old({ "added_tokens.json": { the: 5000 } }), /^added_tokens\.json gives "the" the id 5000, which is not supported/],
  [
    {
      layout: "new",
      patch: [
        [["added_tokens"], []],
        [["model", "vocab", "<x>"], 4096],
      ],
    },
    /^the vocabulary has gaps, so transformers gives the added token "<\|endoftext\|>" the id 4096 of another token/,
  ],
  [
    old({ "special_tokens_map.json": { additional_special_tokens: [{ content: "<x>" }] } }),
    honoured('additional_special_tokens[0] {"content":"<x>"}'),
  ],
  [
    old({ "tokenizer_config.json": { tokenizer_class: "RobertaTokenizerFast" } }),
    honoured('tokenizer_config.json: tokenizer_class "RobertaTokenizerFast"'),
  ],
  [old({ "config.json": { tokenizer_class: "T5Tokenizer" } }), honoured('config.json: tokenizer_class "T5Tokenizer"')],
  [
    old({ "tokenizer_config.json": { fast_tokenizer_files: ["tokenizer.json"] } }),
    honoured('tokenizer_config.json: fast_tokenizer_files ["tokenizer.json"]'),
  ],
  // transformers 5 drops these without a word where the class is GPT2Tokenizer.
  [
    { layout: "new", patch: [[["normalizer"], { type: "NFC" }]] },
    /^tokenizer\.json: normalizer {"type":"NFC"} is not supported with tokenizer_class GPT2Tokenizer.*PreTrainedTokenizerFast/,
  ],
  [
    { layout: "new", patch: [[["pre_tokenizer"], { type: "Sequence", pretokenizers: [BYTE_LEVEL] }]] },
    /^tokenizer\.json: pre_tokenizer .* is not supported with tokenizer_class GPT2Tokenizer/,
  ],
  [
    { layout: "new", patch: [[["model", "ignore_merges"], true]] },
    /^tokenizer\.json: model\.ignore_merges true is not supported with tokenizer_class GPT2Tokenizer/,
  ],
];

const INVALID: readonly (readonly [FolderSpec, RegExp])[] = [
  [
    stored("model.merges", [["t", "h", "e"]]),
    /^tokenizer\.json: model\.merges\[0\] is \["t","h","e"\], which is not a pair/,
  ],
  [
    { layout: "old", drop: ["\u0120t"] },
    /^vocab\.json and merges\.txt: merges\[0\] is "\u0120 t", which is not a pair/,
  ],
  [stored("model.merges", ["t \u4e2d"]), /^tokenizer\.json: model\.merges\[0\] is "t 中", which is not a pair/],
  [stored("added_tokens", {}), /^tokenizer\.json: added_tokens is not a list/],
  [stored("added_tokens", [{ id: 4095 }]), /^tokenizer\.json: added_tokens\[0\]\.content is not a string/],
  [
    stored("added_tokens", [{ ...EOT, lstrip: "yes" }]),
    /^tokenizer\.json: added_tokens\[0\]\.lstrip is neither true nor false/,
  ],
  [old({ "added_tokens.json": { "<x>": "4096" } }), /gives "<x>" the id "4096"/],
  [
    template([{ SpecialToken: { id: "x", type_id: 0 } }, A]),
    /^tokenizer\.json: post_processor\.special_tokens\.x is not a JSON object/,
  ],
  [
    template([{ SpecialToken: { id: "x", type_id: 0 } }, A], { x: { ids: [9999] } }),
    /adds the id 9999 to every prompt, but the model has ids below 4104/,
  ],
];

t.test("every unsupported setting is named", async (t) => {
  for (const [spec, message] of UNSUPPORTED)
    await t.rejects(
      loadTokenizer(await makeTokenizerFolder(t.testdir(), spec), 4104),
      { name: "ModelLoadError", code: "model_unsupported", message },
      String(message),
    );
});

t.test("what no tokenizer has is named", async (t) => {
  for (const [spec, message] of INVALID)
    await t.rejects(
      loadTokenizer(await makeTokenizerFolder(t.testdir(), spec), 4104),
      { name: "ModelLoadError", code: "model_invalid", message },
      String(message),
    );
});

t.test("a tokenizer_class that needs a tokenizer.json", async (t) => {
  await t.rejects(loadTokenizer(await makeTokenizerFolder(t.testdir(), old(STORED)), 4104), {
    code: "model_not_found",
    message: /no tokenizer\.json/,
  });
});

t.test("time is linear in the text, also with tokens that take white space, or only whole words", async (t) => {
  t.setTimeout(60_000);
  const flags = [
    { id: 4096, content: "<l>", lstrip: true },
    { id: 4097, content: "<r>", rstrip: true },
    { id: 4098, content: "zq", single_word: true },
  ];
  const tokenizer = await loadTokenizer(
    await makeTokenizerFolder(t.testdir(), {
      ...stored("added_tokens", [EOT, ...flags]),
      patch: [
        [["added_tokens"], [EOT, ...flags]],
        [["normalizer"], { type: "Strip", strip_left: true, strip_right: true }],
      ],
    }),
    4104,
  );
  for (const piece of [" ", " <l>", "<r> ", "zq", "<l", "zq ", "a\u3000"]) {
    const text = `x${piece.repeat(200_000 / piece.length)}x`;
    t.ok(tokenizer.encode(text).length > 0, JSON.stringify(piece));
  }
});
