import { Tokenizer as HuggingFaceTokenizer } from "@huggingface/tokenizers";
import { ModelLoadError } from "../errors.ts";
import { tokenBytes } from "./byte-alphabet.ts";
import { readTokenizerFiles, type TokenizerFiles } from "./tokenizer-files.ts";

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
  /** Bytes of the longest token: a text of more than `n` times as many bytes has more than `n` tokens, whatever it says. */
  readonly longestToken: number;
  /**
   * Adds no special tokens. A special token's name within the text, such as `<|endoftext|>`, becomes its id, as in transformers.
   * Linear in the text's length, about 0.4 ms per 1,000 characters, on the calling thread.
   */
  encode(text: string): Int32Array;
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
 * tokenizer's. Throws ModelLoadError.
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
  readonly #bytes: Uint8Array[];
  readonly #special: Map<number, string>;
  readonly #encoder: Encoder;

  constructor({ json, config, vocab, added }: TokenizerFiles, vocabSize: number) {
    const tokens = new Map([...vocab, ...added.map(({ content, id }) => [content, id] as const)]);
    for (const [token, id] of tokens) {
      if (id < vocabSize) continue;
      throw new ModelLoadError("model_invalid", `the tokenizer gives ${JSON.stringify(token)} the id ${id}, but the model has ids below ${vocabSize}`);
    }
    this.vocabSize = vocabSize;
    this.eosId = tokens.get(tokenName(config["eos_token"]) ?? "<|endoftext|>") ?? null;
    this.#special = new Map(added.filter((token) => token.special).map((token) => [token.id, token.content]));
    for (const key of ["bos_token", "eos_token", "unk_token", "pad_token"]) {
      const name = tokenName(config[key]);
      const id = name === undefined ? undefined : tokens.get(name);
      if (name !== undefined && id !== undefined) this.#special.set(id, name);
    }
    this.#bytes = new Array<Uint8Array>(vocabSize).fill(EMPTY);
    for (const [token, id] of tokens) if (!this.#special.has(id)) this.#bytes[id] = tokenBytes(token);
    this.longestToken = Math.max(...[...tokens.keys()].map((token) => tokenBytes(token).length));
    this.#encoder = new Encoder(json, config);
  }

  encode(text: string): Int32Array {
    return Int32Array.from(this.#encoder.encode(text, { add_special_tokens: false }).ids);
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

/** `"<s>"` or `{"content": "<s>", ...}`. */
function tokenName(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  if (typeof value === "object" && value !== null && "content" in value && typeof value.content === "string") return value.content;
  return undefined;
}
