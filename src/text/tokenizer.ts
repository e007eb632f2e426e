import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelLoadError } from "../errors.ts";
import { AddedTokenSplitter } from "./added-token-splitter.ts";
import { tokenBytes } from "./byte-alphabet.ts";
import { mergeWord } from "./long-words.ts";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.ts";
import { chunksOf, type Normalizer, type SurroundingIds } from "./tokenizer-json.ts";

const EMPTY = new Uint8Array(0);

interface Encoder {
  /** Splits into words of byte-level characters. */
  pre_tokenizer(text: string): string[];
  readonly model: {
    readonly tokens_to_ids: ReadonlyMap<string, number>;
    readonly bpe_ranks: ReadonlyMap<string, number>;
    readonly ignore_merges: boolean;
    encode(words: readonly string[]): string[];
  };
}

/** Bytes of words encoded between yields: some 20 ms at the worst text's 10 µs per byte. */
export const STRETCH = 2048;
/** Characters split into words at a time. */
const CHUNK = 1024;

/** The library's types do not resolve under Node's module resolution, so the part in use is typed here. */
const Encoder = HuggingFaceTokenizer as unknown as new (json: object, config: object) => Encoder;

/** Text to token ids and back. Stateless, so one instance serves everybody. */
export interface Tokenizer {
  /** The model's number of ids. */
  readonly vocabSize: number;
  /** Id of the end-of-text token, if the tokenizer names one. */
  readonly eosId: number | null;
  /**
   * Bytes of the longest token: a text of more than `n` times as many bytes has more than `n` tokens. Infinity if a
   * token may match text of any length.
   */
  readonly longestToken: number;
  /** Ids the post-processor adds around a prompt. */
  readonly around: SurroundingIds;
  /** Contents of `bos_token`, `eos_token` and so on, as far as the tokenizer has them. */
  readonly named: ReadonlyMap<string, string>;
  /** Tokens without a row in the model, by their ids (>= `vocabSize`). */
  readonly beyondModel: ReadonlyMap<number, string>;
  /**
   * Encodes a text; the name of a special token in it, such as `<|endoftext|>`, becomes its id, as in transformers.
   * `addSpecialTokens` adds the ids around a prompt. Ids may be beyond the model. Roughly linear: 1 to 10 ms per 1,000
   * bytes, on the calling thread.
   */
  encode(text: string, addSpecialTokens?: boolean): Int32Array;
  /**
   * The same in steps, so that others can run in between. After each STRETCH of a long text it yields a lower bound of
   * the number of ids.
   */
  encodeInSteps(text: string, addSpecialTokens?: boolean): Generator<number, Int32Array>;
  /** Decodes ids; special ones have no text. Invalid UTF-8 becomes U+FFFD. */
  decode(ids: Iterable<number>): string;
  /** The bytes a token adds to the text, not always whole characters. Empty for special and unknown ids. */
  bytesOf(id: number): Uint8Array;
  /** One token for display: a special token's name; U+FFFD for a partial character. */
  tokenText(id: number): string;
  isSpecial(id: number): boolean;
}

/**
 * Loads a byte-level BPE tokenizer from a Hugging Face folder. The model's `vocabSize` may exceed the tokenizer's
 * (padding), or be smaller, when tokens were added without a resize. Throws ModelLoadError.
 */
export async function loadTokenizer(dir: string, vocabSize: number): Promise<Tokenizer> {
  const files = await readTokenizerFiles(dir);
  try {
    return new BpeTokenizer(files, vocabSize);
  } catch (error) {
    if (error instanceof ModelLoadError) throw error;
    throw new ModelLoadError("model_invalid", `${dir}: the tokenizer does not load: ${String(error)}`, {
      cause: error,
    });
  }
}

class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly eosId: number | null;
  readonly longestToken: number;
  readonly around: SurroundingIds;
  readonly named: ReadonlyMap<string, string>;
  readonly beyondModel: ReadonlyMap<number, string>;
  /**
   * Bytes of the longest token, as `longestToken`, but for text already normalized and without white space that tokens
   * absorb.
   */
  readonly #longest: number;
  readonly #bytes: Uint8Array[];
  readonly #special: Map<number, string>;
  readonly #encoder: Encoder;
  readonly #normalizer: Normalizer | null;
  readonly #addPrefixSpace: boolean;
  readonly #inWords: boolean;
  /** Splitters for added tokens matched in the raw text, and in the normalized text. */
  readonly #verbatim: AddedTokenSplitter;
  readonly #normalized: AddedTokenSplitter;

  constructor(
    { json, vocab, added, named, normalizer, addPrefixSpace, inWords, around, splitSpecialTokens }: TokenizerFiles,
    vocabSize: number,
  ) {
    const tokens = new Map([...vocab, ...added.map(({ content, id }) => [content, id] as const)]);
    this.vocabSize = vocabSize;
    this.named = named;
    this.beyondModel = new Map([...tokens].filter(([, id]) => id >= vocabSize).map(([token, id]) => [id, token]));
    const unknown = [...around.before, ...around.after].find((id) => id >= vocabSize);
    if (unknown !== undefined)
      throw new ModelLoadError(
        "model_invalid",
        `the tokenizer adds the id ${unknown} to every prompt, but the model has ids below ${vocabSize}`,
      );
    this.around = around;
    const eos = tokens.get(named.get("eos_token") ?? "<|endoftext|>");
    this.eosId = eos !== undefined && eos < vocabSize ? eos : null;
    // Matches use the content as HF decodes it; a token is special only if that is a special token's name.
    const sought = added.map(
      (token) => [token.normalized && normalizer ? normalizer(token.content) : token.content, token] as const,
    );
    const specialNames = new Set(added.filter((token) => token.special).map((token) => token.content));
    this.#special = new Map(sought.filter(([text]) => specialNames.has(text)).map(([text, { id }]) => [id, text]));
    this.#bytes = new Array<Uint8Array>(vocabSize).fill(EMPTY);
    for (const [token, id] of [...vocab, ...sought.map(([text, { id }]) => [text, id] as const)])
      if (id < vocabSize) this.#bytes[id] = this.#special.has(id) ? EMPTY : tokenBytes(token);
    // White space that a token absorbs and text that a normalizer drops can have any length.
    const anyLength = normalizer !== null || added.some((token) => token.lstrip || token.rstrip);
    this.#longest = [...tokens.keys()].reduce((longest, token) => Math.max(longest, tokenBytes(token).length), 1);
    this.longestToken = anyLength ? Infinity : this.#longest;
    this.#encoder = new Encoder(json, {});
    this.#normalizer = normalizer;
    this.#addPrefixSpace = addPrefixSpace;
    this.#inWords = inWords;
    this.#verbatim = new AddedTokenSplitter(
      new Map(sought.filter(([, token]) => !token.normalized)),
      splitSpecialTokens,
    );
    this.#normalized = new AddedTokenSplitter(
      new Map(sought.filter(([, token]) => token.normalized)),
      splitSpecialTokens,
    );
  }

  encode(text: string, addSpecialTokens = false): Int32Array {
    const steps = this.encodeInSteps(text, addSpecialTokens);
    let step = steps.next();
    while (step.done !== true) step = steps.next();
    return step.value;
  }

  *encodeInSteps(text: string, addSpecialTokens = false): Generator<number, Int32Array> {
    const ids: number[] = [];
    const parts = this.#verbatim
      .split(text)
      .flatMap((part) =>
        typeof part === "number" ? [part] : this.#normalized.split(this.#normalizer?.(part) ?? part),
      );
    if (text.length > STRETCH)
      yield parts.reduce<number>(
        (least, part) => least + (typeof part === "number" ? 1 : Math.ceil(Buffer.byteLength(part) / this.#longest)),
        0,
      );
    for (const part of parts) {
      if (typeof part === "number") ids.push(part);
      else yield* this.#encodePart(this.#addPrefixSpace && !part.startsWith(" ") ? ` ${part}` : part, ids);
    }
    return Int32Array.from(addSpecialTokens ? [...this.around.before, ...ids, ...this.around.after] : ids);
  }

  /** Appends the ids of a text without added tokens; yields their number after each stretch. */
  *#encodePart(text: string, ids: number[]): Generator<number, void> {
    let begun = false;
    for (const chunk of this.#inWords ? chunksOf(text, CHUNK) : [text]) {
      if (begun) yield ids.length;
      begun = true;
      yield* this.#encodeWords(this.#encoder.pre_tokenizer(chunk), ids);
    }
  }

  *#encodeWords(words: readonly string[], ids: number[]): Generator<number, void> {
    const { model } = this.#encoder;
    let stretch = 0;
    for (const word of words) {
      stretch += word.length;
      if (stretch > STRETCH && ids.length > 0) {
        stretch = word.length;
        yield ids.length;
      }
      const isShort = word.length <= STRETCH || (model.ignore_merges && model.tokens_to_ids.has(word));
      if (!isShort) yield* this.#encodeLong(word, ids);
      else for (const token of model.encode([word])) ids.push(model.tokens_to_ids.get(token)!);
    }
  }

  *#encodeLong(word: string, ids: number[]): Generator<number, void> {
    const { bpe_ranks, tokens_to_ids } = this.#encoder.model;
    yield ids.length;
    const merging = mergeWord(word, (left, right) => bpe_ranks.get(JSON.stringify([left, right])));
    let step = merging.next();
    for (; step.done !== true; step = merging.next()) yield ids.length;
    const tokens = step.value;
    for (const [at, token] of tokens.entries()) {
      if (at % STRETCH === 0) yield ids.length + tokens.length - at;
      ids.push(tokens_to_ids.get(token)!);
    }
  }

  decode(ids: Iterable<number>): string {
    return decodeUtf8(Buffer.concat(Array.from(ids, (id) => this.bytesOf(id))));
  }

  bytesOf(id: number): Uint8Array {
    return this.#bytes[id] ?? EMPTY;
  }

  tokenText(id: number): string {
    return this.#special.get(id) ?? decodeUtf8(this.bytesOf(id));
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }
}

/** Keeps a byte order mark: it is text like any other. */
function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
