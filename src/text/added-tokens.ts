import { ModelLoadError } from "../errors.ts";
import { flag, isObject, list, notHonoured, object, onlyKeys, text, tokenId, type Json } from "./json-values.ts";

/** A token that is found in the text before it is split into words. Flags as in HF's AddedToken. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Decodes to no text. */
  readonly special: boolean;
  /** Matches only where no letter or digit is adjacent. */
  readonly singleWord: boolean;
  /** Includes the white space before it. */
  readonly lstrip: boolean;
  /** Includes the white space after it. */
  readonly rstrip: boolean;
  /** Matched in the normalized text. */
  readonly normalized: boolean;
}

export interface AddedTokenFiles {
  readonly vocab: ReadonlyMap<string, number>;
  /** tokenizer_config.json. */
  readonly config: Json;
  /** special_tokens_map.json and added_tokens.json; empty if there is none. */
  readonly specialTokensMap: Json;
  readonly addedTokens: Json;
  /** `added_tokens` of tokenizer.json. */
  readonly listed: readonly unknown[];
  /**
   * Whether transformers rebuilds the tokenizer from vocabulary and merges, as its GPT2Tokenizer does, or takes
   * tokenizer.json as it is.
   */
  readonly rebuilt: boolean;
  /** `pad_token` of tokenizer.json's padding, which PreTrainedTokenizerFast adopts unless another file names one. */
  readonly paddingToken: string | undefined;
}

export interface MergedTokens {
  /** By content. */
  readonly tokens: ReadonlyMap<string, AddedToken>;
  /** `bos_token`, `eos_token` and so on, as far as defined. */
  readonly named: ReadonlyMap<string, string>;
}

type Unnumbered = Omit<AddedToken, "id">;
interface Declared {
  readonly token: Unnumbered;
  /** Place of the declaration, for error messages. */
  readonly path: string;
}

const NAMED = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const DEFAULTS: Readonly<Record<string, string>> = {
  bos_token: "<|endoftext|>",
  eos_token: "<|endoftext|>",
  unk_token: "<|endoftext|>",
};

/**
 * Merges added tokens as transformers 5.18 does (`PreTrainedTokenizerBase._from_pretrained`,
 * `TokenizersBackend.__init__`). With `added_tokens_decoder` in tokenizer_config.json, added_tokens.json and
 * special_tokens_map.json are ignored. Without it, special_tokens_map.json takes precedence over tokenizer_config.json,
 * and tokenizer.json over added_tokens.json. Tokens that are only named (`pad_token`, `additional_special_tokens`, ...)
 * are added at the end. Throws ModelLoadError.
 */
export function mergeAddedTokens({
  vocab,
  config,
  specialTokensMap,
  addedTokens,
  listed,
  rebuilt,
  paddingToken,
}: AddedTokenFiles): MergedTokens {
  const decoder = config["added_tokens_decoder"];
  const settings = settingsOf(config, decoder === undefined ? specialTokensMap : {});
  const named = namedTokens(settings, rebuilt, paddingToken);
  const names = new Set([...named.values()].map(({ content }) => content));
  const fromFile = byId(listed.map((token, i) => fileToken(token, `tokenizer.json: added_tokens[${i}]`)));
  const declared =
    decoder === undefined
      ? new Map([...legacyTokens(addedTokens, settings), ...fromFile])
      : decoderTokens(object(decoder, "tokenizer_config.json: added_tokens_decoder"));

  const added = new AddedVocabulary(vocab);
  if (!rebuilt) for (const [id, { token, path }] of fromFile) added.add(token, { id, path });
  for (const [id, { token, path }] of [...declared].sort(([a], [b]) => a - b))
    added.add({ ...token, special: token.special || names.has(token.content) }, { id, path });
  for (const token of named.values()) if (!added.tokens.has(token.content)) added.add({ ...token, special: true });
  for (const token of extraTokens(settings)) if (!added.tokens.has(token.content)) added.add(token);
  return { tokens: added.tokens, named: new Map([...named].map(([name, { content }]) => [name, content])) };
}

/** Assigns ids as HF's AddedVocabulary does: the vocabulary's, else the next free one at the end. */
class AddedVocabulary {
  readonly tokens = new Map<string, AddedToken>();
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #taken: ReadonlySet<number>;

  constructor(vocab: ReadonlyMap<string, number>) {
    this.#vocab = vocab;
    this.#taken = new Set(vocab.values());
  }

  /**
   * The last declaration's flags win, except that a special token stays special. Throws for ids that HF would not
   * assign.
   */
  add(token: Unnumbered, declared?: { readonly id: number; readonly path: string }): void {
    const { content } = token;
    if (content === "") return;
    const before = this.tokens.get(content);
    const known = before?.id ?? this.#vocab.get(content);
    const id = known ?? this.#next();
    const shown = JSON.stringify(content);
    if (declared !== undefined && declared.id !== id) {
      throw new ModelLoadError(
        "model_unsupported",
        `${declared.path} gives ${shown} the id ${declared.id}, which is not supported: transformers numbers added tokens after the vocabulary without gaps, and this one ${id}`,
      );
    }
    if (known === undefined && this.#taken.has(id)) {
      throw new ModelLoadError(
        "model_unsupported",
        `the vocabulary has gaps, so transformers gives the added token ${shown} the id ${id} of another token, which is not supported`,
      );
    }
    this.tokens.set(content, { ...token, id, special: token.special || (before?.special ?? false) });
  }

  #next(): number {
    return Math.max(this.#vocab.size, ...[...this.tokens.values()].map(({ id }) => id + 1));
  }
}

/** tokenizer_config.json, overridden by special_tokens_map.json. */
function settingsOf(config: Json, map: Json): Json {
  const { additional_special_tokens: additional, ...settings } = config;
  const { extra_special_tokens: ofMap } = map;
  const ofConfig = isNothing(config["extra_special_tokens"]) ? additional : config["extra_special_tokens"];
  const extra = Array.isArray(ofMap) ? [...tokensOf(ofConfig), ...tokensOf(ofMap)] : (ofMap ?? ofConfig);
  return { ...settings, ...map, ...(extra === undefined ? {} : { extra_special_tokens: extra }) };
}

const isNothing = (value: unknown): boolean =>
  value === undefined || value === null || (typeof value === "object" && Object.keys(value).length === 0);
const tokensOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** Named special tokens: transformers' own and any other key that ends with `_token`. */
function namedTokens(settings: Json, rebuilt: boolean, paddingToken: string | undefined): Map<string, Unnumbered> {
  const defaults: Json = rebuilt ? DEFAULTS : { pad_token: paddingToken };
  const { extra_special_tokens: extra } = settings;
  const candidates: (readonly [string, unknown])[] = [
    ...NAMED.map((name) => [name, settings[name] === undefined ? defaults[name] : settings[name]] as const),
    ...Object.entries(settings).filter(([name]) => name.endsWith("_token") && !NAMED.includes(name)),
    ...(isObject(extra) ? Object.entries(extra) : []),
  ];
  const named = new Map<string, Unnumbered>();
  for (const [name, value] of candidates) {
    if (typeof value === "string") named.set(name, plain(value, true));
    else if (isObject(value)) named.set(name, flagsOf(value, name, true));
  }
  return named;
}

/** Special tokens without names. transformers accepts objects only with their `__type`. */
function extraTokens({ extra_special_tokens: extra, additional_special_tokens: additional }: Json): Unnumbered[] {
  const tokens = extra ?? additional ?? [];
  if (isObject(tokens)) return [];
  return list(tokens, "additional_special_tokens").map((token, i) => {
    if (typeof token === "string") return plain(token, true);
    const path = `additional_special_tokens[${i}]`;
    if (object(token, path)["__type"] !== "AddedToken") throw notHonoured(path, token);
    return flagsOf(object(token, path), path, false);
  });
}

/** added_tokens.json: names to ids. */
function legacyTokens(file: Json, settings: Json): Map<number, Declared> {
  const special = new Set(
    [...NAMED.map((name) => settings[name]), ...tokensOf(settings["extra_special_tokens"])].map((value) =>
      isObject(value) ? value["content"] : value,
    ),
  );
  return byId(
    Object.entries(file).map(([content, id]) => [
      tokenId(id, content),
      { token: plain(content, special.has(content)), path: "added_tokens.json" },
    ]),
  );
}

function decoderTokens(stored: Json): Map<number, Declared> {
  return byId(
    Object.entries(stored).map(([key, value]) => {
      const path = `tokenizer_config.json: added_tokens_decoder.${key}`;
      const token = flagsOf(object(value, path), path, false);
      return [tokenId(Number(key), token.content), { token, path }];
    }),
  );
}

function fileToken(stored: unknown, path: string): [number, Declared] {
  const json = object(stored, path);
  const token = flagsOf(json, path, false);
  return [tokenId(json["id"], token.content), { token, path }];
}

function byId(tokens: readonly (readonly [number, Declared])[]): Map<number, Declared> {
  const out = new Map<number, Declared>();
  for (const [id, declared] of tokens) {
    const other = out.get(id)?.token.content;
    if (other !== undefined)
      throw new ModelLoadError(
        "model_unsupported",
        `${declared.path} gives ${JSON.stringify(declared.token.content)} the id ${id}, which ${JSON.stringify(other)} has: two tokens with one id are not supported`,
      );
    out.set(id, declared);
  }
  return out;
}

const plain = (content: string, special: boolean): Unnumbered => ({
  content,
  special,
  singleWord: false,
  lstrip: false,
  rstrip: false,
  normalized: !special,
});

function flagsOf(json: Json, path: string, specialByDefault: boolean): Unnumbered {
  onlyKeys(json, `${path}.`, ["__type", "id", "content", "special", "single_word", "lstrip", "rstrip", "normalized"]);
  const is = (key: string, byDefault: boolean): boolean => flag(json[key], `${path}.${key}`, byDefault);
  const special = is("special", specialByDefault);
  return {
    content: text(json["content"], `${path}.content`),
    special,
    singleWord: is("single_word", false),
    lstrip: is("lstrip", false),
    rstrip: is("rstrip", false),
    normalized: is("normalized", !special),
  };
}
