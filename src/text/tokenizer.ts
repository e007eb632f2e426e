import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelLoadError } from "../errors.ts";
import { AddedTokenSplitter } from "./added-token-splitter.ts";
import { tokenBytes } from "./byte-alphabet.ts";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.ts";
import type { Normalizer, SurroundingIds } from "./tokenizer-json.ts";

const EMPTY = new Uint8Array(0);

interface Encoder {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
}

/** The library's own types do not resolve under Node's module resolution: what is used of it, typed here. */
const Encoder = HuggingFaceTokenizer as unknown as new (json: object, config: object) => Encoder;

/** Text to token ids and back. Stateless for its users, so one serves all. */
export interface Tokenizer {
  /** The model's number of ids. */
  readonly vocabSize: number;
  /** Id of the text end, if the tokenizer names one. */
  readonly eosId: number | null;
  /** Bytes of the longest token: a text of more than `n` times as many bytes has more than `n` tokens. Infinity where a token may stand for any number. */
  readonly longestToken: number;
  /** What the tokenizer's post-processor puts around a prompt. */
  readonly around: SurroundingIds;
  /** Tokens that the model has no row for, by their ids, which are not below `vocabSize`. */
  readonly beyondModel: ReadonlyMap<number, string>;
  /**
   * A special token's name within the text, such as `<|endoftext|>`, becomes its id, as in transformers. With `addSpecialTokens` the
   * ids are those of a prompt, with what is around it. Ids may be beyond the model.
   * Linear in the text's length, about 0.4 ms per 1,000 characters, on the calling thread.
   */
  encode(text: string, addSpecialTokens?: boolean): Int32Array;
  /** The text of all ids; special ones have none. Bytes that are not UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>): string;
  /** What a token adds to the text, not always whole characters; empty for special ids and ids that no token has. */
  bytesOf(id: number): Uint8Array;
  /** One token on its own, for people: a special token's name, U+FFFD for a part of a character. */
  tokenText(id: number): string;
  isSpecial(id: number): boolean;
}

/**
 * Loads a byte-level BPE tokenizer from a Hugging Face folder. `vocabSize` is the model's, which may be padded beyond the
 * tokenizer's, or lack rows for tokens that were added without a resize. Throws ModelLoadError.
 */
export async function loadTokenizer(dir: string, vocabSize: number): Promise<Tokenizer> {
  const files = await readTokenizerFiles(dir);
  try {
    return new BpeTokenizer(files, vocabSize);
  } catch (error) {
    if (error instanceof ModelLoadError) throw error;
    throw new ModelLoadError("model_invalid", `${dir}: the tokenizer does not load: ${String(error)}`, { cause: error });
  }
}

class BpeTokenizer implements Tokenizer {
  readonly vocabSize: number;
  readonly eosId: number | null;
  readonly longestToken: number;
  readonly around: SurroundingIds;
  readonly beyondModel: ReadonlyMap<number, string>;
  readonly #bytes: Uint8Array[];
  readonly #special: Map<number, string>;
  readonly #encoder: Encoder;
  readonly #normalizer: Normalizer | null;
  readonly #addPrefixSpace: boolean;
  /** Of tokens that are looked for in the text as it came, and in the normalized text. */
  readonly #verbatim: AddedTokenSplitter;
  readonly #normalized: AddedTokenSplitter;

  constructor({ json, vocab, added, endToken, normalizer, addPrefixSpace, around, splitSpecialTokens }: TokenizerFiles, vocabSize: number) {
    const tokens = new Map([...vocab, ...added.map(({ content, id }) => [content, id] as const)]);
    this.vocabSize = vocabSize;
    this.beyondModel = new Map([...tokens].filter(([, id]) => id >= vocabSize).map(([token, id]) => [id, token]));
    const unknown = [...around.before, ...around.after].find((id) => id >= vocabSize);
    if (unknown !== undefined) throw new ModelLoadError("model_invalid", `the tokenizer adds the id ${unknown} to every prompt, but the model has ids below ${vocabSize}`);
    this.around = around;
    const eos = tokens.get(endToken ?? "<|endoftext|>");
    this.eosId = eos !== undefined && eos < vocabSize ? eos : null;
    // What is looked for is what HF decodes them to, and it is special only if that is a special token's name.
    const sought = added.map((token) => [token.normalized && normalizer ? normalizer(token.content) : token.content, token] as const);
    const specialNames = new Set(added.filter((token) => token.special).map((token) => token.content));
    this.#special = new Map(sought.filter(([text]) => specialNames.has(text)).map(([text, { id }]) => [id, text]));
    this.#bytes = new Array<Uint8Array>(vocabSize).fill(EMPTY);
    for (const [token, id] of [...vocab, ...sought.map(([text, { id }]) => [text, id] as const)]) if (id < vocabSize) this.#bytes[id] = this.#special.has(id) ? EMPTY : tokenBytes(token);
    // White space that a token takes with it and what a normalizer leaves out have no length.
    const anyLength = normalizer !== null || added.some((token) => token.lstrip || token.rstrip);
    this.longestToken = anyLength ? Infinity : Math.max(...[...tokens.keys()].map((token) => tokenBytes(token).length));
    this.#encoder = new Encoder(json, {});
    this.#normalizer = normalizer;
    this.#addPrefixSpace = addPrefixSpace;
    this.#verbatim = new AddedTokenSplitter(new Map(sought.filter(([, token]) => !token.normalized)), splitSpecialTokens);
    this.#normalized = new AddedTokenSplitter(new Map(sought.filter(([, token]) => token.normalized)), splitSpecialTokens);
  }

  encode(text: string, addSpecialTokens = false): Int32Array {
    const ids: number[] = [];
    for (const part of this.#verbatim.split(text)) {
      if (typeof part === "number") ids.push(part);
      else this.#encodeVerbatim(part, ids);
    }
    return Int32Array.from(addSpecialTokens ? [...this.around.before, ...ids, ...this.around.after] : ids);
  }

  #encodeVerbatim(text: string, ids: number[]): void {
    for (const part of this.#normalized.split(this.#normalizer?.(text) ?? text)) {
      if (typeof part === "number") {
        ids.push(part);
        continue;
      }
      const words = this.#addPrefixSpace && !part.startsWith(" ") ? ` ${part}` : part;
      for (const id of this.#encoder.encode(words, { add_special_tokens: false }).ids) ids.push(id);
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

/** A byte order mark is text like any other. */
function decodeUtf8(bytes: Uint8Array): string {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
}
