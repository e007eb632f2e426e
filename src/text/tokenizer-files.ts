import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ModelLoadError } from "../errors.ts";
import { byteCharacters } from "./byte-alphabet.ts";

export interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special: boolean;
}

/** A byte-level BPE tokenizer as its files describe it. */
export interface TokenizerFiles {
  /** A tokenizer.json object, ready for the tokenizers library. */
  readonly json: Readonly<Record<string, unknown>>;
  /** tokenizer_config.json; empty if there is none. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly vocab: ReadonlyMap<string, number>;
  readonly added: readonly AddedToken[];
}

type Json = Record<string, unknown>;

const END_OF_TEXT = "<|endoftext|>";

/**
 * GPT-2's split into words, as Hugging Face's ByteLevel does it. As a Split of its own the library runs it with Unicode's
 * white space; inside its ByteLevel it runs with JavaScript's `\s`, which has U+FEFF and lacks U+0085: other ids than HF's.
 */
const WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Reads tokenizer.json, or vocab.json and merges.txt, with tokenizer_config.json. Throws ModelLoadError. */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const config = object((await readJson(dir, "tokenizer_config.json")) ?? {}, "tokenizer_config.json");
  const file = await readJson(dir, "tokenizer.json");
  const json = file === undefined ? await fromVocabAndMerges(dir, config) : object(file, "tokenizer.json");
  const model = object(json["model"], "tokenizer.json: model");
  if (model["type"] !== "BPE" || model["byte_fallback"] === true || !JSON.stringify(json["decoder"] ?? null).includes('"ByteLevel"')) {
    throw new ModelLoadError("model_unsupported", `${join(dir, "tokenizer.json")} is not a byte-level BPE such as GPT-2's`);
  }
  const vocab = new Map<string, number>();
  for (const [token, id] of Object.entries(object(model["vocab"], "tokenizer.json: model.vocab"))) vocab.set(token, tokenId(id, token));
  const missing = byteCharacters().findIndex((character) => !vocab.has(character));
  if (missing !== -1) throw new ModelLoadError("model_unsupported", `the vocabulary has no token for byte ${missing}: some texts could not be encoded`);
  return { json: { ...json, pre_tokenizer: preTokenizer(json["pre_tokenizer"], config) }, config, vocab, added: addedTokens(json["added_tokens"]) };
}

/** What the older files say, as a tokenizer.json object. */
async function fromVocabAndMerges(dir: string, config: Json): Promise<Json> {
  const vocab = await readJson(dir, "vocab.json");
  const merges = await readText(dir, "merges.txt");
  if (vocab === undefined || merges === undefined) {
    throw new ModelLoadError("model_not_found", `${dir} has neither tokenizer.json nor both vocab.json and merges.txt`);
  }
  const ids = object(vocab, "vocab.json");
  const listed = Object.entries(object(config["added_tokens_decoder"] ?? {}, "added_tokens_decoder"));
  const added: object[] = listed.map(([id, token]) => ({ ...object(token, "added_tokens_decoder"), id: Number(id) }));
  if (added.length === 0 && Object.hasOwn(ids, END_OF_TEXT)) {
    added.push({ id: ids[END_OF_TEXT], content: END_OF_TEXT, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true });
  }
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      vocab: ids,
      // A rule may begin with "#", so only the version line is a comment.
      merges: merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version")),
    },
  };
}

/** As transformers does, tokenizer_config.json decides about a leading space. */
function preTokenizer(stored: unknown, config: Json): unknown {
  const { type, use_regex } = object(stored ?? {}, "tokenizer.json: pre_tokenizer");
  if (type !== "ByteLevel" || use_regex === false) return stored;
  if (config["add_prefix_space"] === true) return { type: "ByteLevel", add_prefix_space: true, use_regex: true };
  return {
    type: "Sequence",
    pretokenizers: [
      { type: "Split", pattern: { Regex: WORDS }, behavior: "Isolated", invert: false },
      { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
    ],
  };
}

function addedTokens(stored: unknown): AddedToken[] {
  const list: unknown[] = Array.isArray(stored) ? stored : [];
  return list.map((entry) => {
    const { id, content, special } = object(entry, "tokenizer.json: added_tokens");
    if (typeof content !== "string") throw new ModelLoadError("model_invalid", "tokenizer.json: an added token has no content");
    return { id: tokenId(id, content), content, special: special === true };
  });
}

function tokenId(id: unknown, token: string): number {
  if (typeof id === "number" && Number.isInteger(id) && id >= 0) return id;
  throw new ModelLoadError("model_invalid", `the tokenizer gives ${JSON.stringify(token)} the id ${JSON.stringify(id)}`);
}

function object(value: unknown, what: string): Json {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Json;
  throw new ModelLoadError("model_invalid", `${what} is not a JSON object`);
}

async function readJson(dir: string, name: string): Promise<unknown> {
  const text = await readText(dir, name);
  try {
    return text === undefined ? undefined : (JSON.parse(text) as unknown);
  } catch (error) {
    throw new ModelLoadError("model_invalid", `${join(dir, name)} is not valid JSON`, { cause: error });
  }
}

async function readText(dir: string, name: string): Promise<string | undefined> {
  try {
    return await readFile(join(dir, name), "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw new ModelLoadError("model_invalid", `cannot read ${join(dir, name)}`, { cause: error });
  }
}
