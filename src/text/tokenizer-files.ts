import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { ModelLoadError } from "../errors.ts";
import { mergeAddedTokens, type AddedToken, type MergedTokens } from "./added-tokens.ts";
import { flag, list, notHonoured, object, onlyKeys, text, type Json } from "./json-values.ts";
import {
  checkDecoder,
  NOTHING_AROUND,
  readModel,
  readNormalizer,
  readPostProcessor,
  readPreTokenizer,
  type Normalizer,
  type SurroundingIds,
} from "./tokenizer-json.ts";

/** A byte-level BPE tokenizer, as described by its files. */
export interface TokenizerFiles {
  /** Pre-tokenizer and model as a tokenizer.json object, for the tokenizers library. */
  readonly json: object;
  readonly vocab: ReadonlyMap<string, number>;
  readonly added: readonly AddedToken[];
  /** Contents of `bos_token`, `eos_token` and so on, as far as defined. */
  readonly named: ReadonlyMap<string, string>;
  readonly normalizer: Normalizer | null;
  readonly addPrefixSpace: boolean;
  /** Whether texts are split into GPT-2's words. */
  readonly inWords: boolean;
  /** Ids added around a prompt. */
  readonly around: SurroundingIds;
  /** Whether names of special tokens in a text are ordinary text. */
  readonly splitSpecialTokens: boolean;
}

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };

/** Tokenizer classes that use tokenizer.json as stored, without the suffix "Fast". */
const AS_STORED = ["PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"];

/**
 * Reads tokenizer.json, or vocab.json and merges.txt, with tokenizer_config.json, added_tokens.json and
 * special_tokens_map.json, as transformers' AutoTokenizer does for a GPT-2. Throws ModelLoadError that names any
 * setting it does not implement.
 */
export async function readTokenizerFiles(dir: string): Promise<TokenizerFiles> {
  const config = await readObject(dir, "tokenizer_config.json");
  const rebuilt = isRebuilt(config, await readObject(dir, "config.json"));
  for (const key of ["fast_tokenizer_files", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"])
    if (config[key]) throw notHonoured(`tokenizer_config.json: ${key}`, config[key]);

  const stored = await readJson(dir, "tokenizer.json");
  const file = stored === undefined ? await fromVocabAndMerges(dir, rebuilt) : object(stored, "tokenizer.json");
  onlyKeys(file, "tokenizer.json: ", [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
  ]);
  const {
    json: model,
    vocab,
    ignoreMerges,
  } = readModel(file["model"], stored === undefined ? "vocab.json and merges.txt: " : "tokenizer.json: model.");
  if (rebuilt) refuseWhatRebuildingDrops(file, ignoreMerges);
  checkDecoder(file["decoder"], "tokenizer.json: decoder");
  const preTokenizer = readPreTokenizer(
    rebuilt ? { ...BYTE_LEVEL, add_prefix_space: config["add_prefix_space"] ?? false } : file["pre_tokenizer"],
    rebuilt ? "tokenizer_config.json" : "tokenizer.json: pre_tokenizer",
  );

  const { padding } = file;
  const merged = mergeAddedTokens({
    vocab,
    config,
    specialTokensMap: await readObject(dir, "special_tokens_map.json"),
    addedTokens: await readObject(dir, "added_tokens.json"),
    listed: list(file["added_tokens"] ?? [], "tokenizer.json: added_tokens"),
    rebuilt,
    // Nothing else of truncation and padding has an effect: a call without arguments disables both.
    paddingToken:
      padding === undefined || padding === null
        ? undefined
        : text(object(padding, "tokenizer.json: padding")["pad_token"], "tokenizer.json: padding.pad_token"),
  });
  return {
    json: {
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: preTokenizer.json,
      post_processor: null,
      decoder: null,
      model,
    },
    vocab,
    added: [...merged.tokens.values()],
    named: merged.named,
    normalizer: rebuilt ? null : readNormalizer(file["normalizer"], "tokenizer.json: normalizer"),
    addPrefixSpace: preTokenizer.addPrefixSpace,
    inWords: preTokenizer.inWords,
    around:
      stored === undefined
        ? namedAround(config, merged)
        : readPostProcessor(file["post_processor"], "tokenizer.json: post_processor"),
    splitSpecialTokens: flag(config["split_special_tokens"], "tokenizer_config.json: split_special_tokens", false),
  };
}

/**
 * transformers' GPT2Tokenizer rebuilds the tokenizer from tokenizer.json's vocabulary, merges and post-processor; its
 * generic class takes the file as stored. tokenizer_config.json names the class, else config.json.
 */
function isRebuilt(config: Json, modelConfig: Json): boolean {
  const named = config["tokenizer_class"] ?? modelConfig["tokenizer_class"] ?? "GPT2Tokenizer";
  const name = typeof named === "string" ? named.replace(/Fast$/, "") : "";
  if (name === "GPT2Tokenizer") return true;
  if (AS_STORED.includes(name)) return false;
  throw notHonoured(
    `${config["tokenizer_class"] === named ? "tokenizer_config.json" : "config.json"}: tokenizer_class`,
    named,
  );
}

/**
 * transformers 5 drops these for its GPT2Tokenizer; older versions do not. We cannot tell which the model was trained
 * with.
 */
function refuseWhatRebuildingDrops(file: Json, ignoreMerges: boolean): void {
  const { type, use_regex } = object(file["pre_tokenizer"] ?? {}, "tokenizer.json: pre_tokenizer");
  const dropped: [string, unknown, boolean][] = [
    ["normalizer", file["normalizer"], (file["normalizer"] ?? null) !== null],
    ["pre_tokenizer", file["pre_tokenizer"] ?? null, type !== "ByteLevel" || use_regex === false],
    ["model.ignore_merges", true, ignoreMerges],
  ];
  const found = dropped.find(([, , is]) => is);
  if (found === undefined) return;
  const { message } = notHonoured(`tokenizer.json: ${found[0]}`, found[1]);
  throw new ModelLoadError(
    "model_unsupported",
    `${message} with tokenizer_class GPT2Tokenizer, for which transformers 5 drops it; if the model was trained with it, write "tokenizer_class": "PreTrainedTokenizerFast" into tokenizer_config.json`,
  );
}

/** The older files' content as a tokenizer.json object. */
async function fromVocabAndMerges(dir: string, rebuilt: boolean): Promise<Json> {
  const vocab = await readJson(dir, "vocab.json");
  const merges = await readText(dir, "merges.txt");
  if (vocab === undefined || merges === undefined || !rebuilt) {
    throw new ModelLoadError(
      "model_not_found",
      `${dir} has ${rebuilt ? "neither tokenizer.json nor both vocab.json and merges.txt" : "no tokenizer.json, which its tokenizer_class needs"}`,
    );
  }
  return {
    pre_tokenizer: BYTE_LEVEL,
    decoder: BYTE_LEVEL,
    model: {
      type: "BPE",
      vocab: object(vocab, "vocab.json"),
      // A merge may begin with "#", so only the version line is a comment.
      merges: merges.split(/\r?\n/).filter((line) => line !== "" && !line.startsWith("#version")),
    },
  };
}

/** `add_bos_token` and `add_eos_token`, which transformers reads only without a tokenizer.json. */
function namedAround(config: Json, { tokens, named }: MergedTokens): SurroundingIds {
  const idsOf = (wish: string, name: string): number[] => {
    const id = tokens.get(named.get(name) ?? "")?.id;
    return flag(config[wish], `tokenizer_config.json: ${wish}`, false) && id !== undefined ? [id] : [];
  };
  const around = { before: idsOf("add_bos_token", "bos_token"), after: idsOf("add_eos_token", "eos_token") };
  return around.before.length + around.after.length > 0 ? around : NOTHING_AROUND;
}

/** Empty if there is no such file. */
async function readObject(dir: string, name: string): Promise<Json> {
  return object((await readJson(dir, name)) ?? {}, name);
}

async function readJson(dir: string, name: string): Promise<unknown> {
  const content = await readText(dir, name);
  try {
    return content === undefined ? undefined : (JSON.parse(content) as unknown);
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
