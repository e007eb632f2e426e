import { setImmediate as nextTurn } from "node:timers/promises";
import { PrefixdError } from "../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";

/** Text that is tokenised at a stretch; in between, the event loop serves the others. */
const STRETCH = 16_384;

/** Texts and token ids from outside, checked and tokenised. `positions` is the model's n_positions. */
export class PromptReader {
  readonly #tokenizer: Tokenizer;
  readonly #positions: number;

  constructor(tokenizer: Tokenizer, positions: number) {
    this.#tokenizer = tokenizer;
    this.#positions = positions;
  }

  /** `names[i]` is what errors call `prompts[i]`. Throws `empty_prompt`, `invalid_token_id`, `context_exceeded`. */
  async read(prompts: readonly (string | readonly number[])[], names: readonly string[]): Promise<Int32Array[]> {
    const out: Int32Array[] = [];
    let stretch = 0;
    for (const [i, prompt] of prompts.entries()) {
      const name = names[i] ?? "prompt";
      if (prompt.length === 0) throw new PrefixdError("empty_prompt", `${name} is empty; to begin from nothing, send the id of the BOS token.`);
      if (typeof prompt !== "string") {
        out.push(this.#ids(prompt, name));
        continue;
      }
      stretch += prompt.length;
      if (stretch > STRETCH && i > 0) {
        stretch = prompt.length;
        await nextTurn();
      }
      out.push(this.#encode(prompt, name));
    }
    return out;
  }

  /**
   * The id sequences of bad words. A text stands for two: itself, and itself after a space, since a byte-level tokenizer has other ids
   * for a word that begins a text than for one within it (transformers' documentation takes the second one alone).
   * Throws `invalid_token_id`.
   */
  async badWords(words: readonly (string | readonly number[])[]): Promise<number[][]> {
    const out: number[][] = [];
    let stretch = 0;
    for (const [i, word] of words.entries()) {
      if (typeof word !== "string") {
        out.push([...this.#ids(word, `bad_words[${i}]`)]);
        continue;
      }
      stretch += word.length;
      if (stretch > STRETCH) {
        stretch = word.length;
        await nextTurn();
      }
      for (const form of word.startsWith(" ") ? [word] : [word, ` ${word}`]) out.push([...this.#tokenizer.encode(form)]);
    }
    return out;
  }

  /** Throws `invalid_token_id`. */
  logitBias(bias: Readonly<Record<string, number>>): Map<number, number> {
    const out = new Map<number, number>();
    for (const [key, value] of Object.entries(bias)) {
      const id = /^(0|[1-9]\d{0,8})$/.test(key) ? Number(key) : Infinity;
      const { vocabSize } = this.#tokenizer;
      const shown = JSON.stringify(key.slice(0, 20));
      if (id >= vocabSize) throw new PrefixdError("invalid_token_id", `logit_bias has the key ${shown}; token ids are 0 to ${vocabSize - 1}.`);
      out.set(id, value);
    }
    return out;
  }

  /** Ids of the request's vocabulary, each once. Throws `invalid_token_id`. */
  tokenIds(ids: readonly number[], name: string): number[] {
    return [...new Set(this.#checked(ids, name))];
  }

  /**
   * Biases of id sequences; of equal ones the last, as in transformers. `single`: what `logit_bias` has.
   * Throws `invalid_token_id`, `invalid_parameter`.
   */
  sequenceBias(pairs: readonly (readonly [readonly number[], number])[], single: ReadonlyMap<number, number>): { ids: readonly number[]; bias: number }[] {
    const out = new Map<string, { ids: readonly number[]; bias: number }>();
    for (const [i, [ids, bias]] of pairs.entries()) {
      this.#checked(ids, `sequence_bias[${i}][0]`);
      if (ids.length === 1 && single.has(ids[0]!)) throw new PrefixdError("invalid_parameter", `logit_bias and sequence_bias[${i}] are both of token ${ids[0]!}.`);
      out.set(ids.join(), { ids, bias });
    }
    return [...out.values()];
  }

  #encode(text: string, name: string): Int32Array {
    // No token is longer than the longest, so what cannot fit need not be tokenised to be refused.
    const atLeast = Math.ceil(Buffer.byteLength(text) / this.#tokenizer.longestToken);
    if (atLeast > this.#positions) throw this.#tooLong(name, `at least ${atLeast}`);
    const ids = this.#tokenizer.encode(text);
    if (ids.length === 0) throw new PrefixdError("empty_prompt", `${name} has no tokens.`);
    if (ids.length > this.#positions) throw this.#tooLong(name, String(ids.length));
    return ids;
  }

  #ids(ids: readonly number[], name: string): Int32Array {
    if (ids.length > this.#positions) throw this.#tooLong(name, String(ids.length));
    return Int32Array.from(this.#checked(ids, name));
  }

  #checked(ids: readonly number[], name: string): readonly number[] {
    const { vocabSize } = this.#tokenizer;
    const bad = ids.findIndex((id) => id >= vocabSize || id < 0);
    if (bad >= 0) throw new PrefixdError("invalid_token_id", `${name}[${bad}] is ${ids[bad]}; token ids are 0 to ${vocabSize - 1}.`);
    return ids;
  }

  #tooLong(name: string, length: string): PrefixdError {
    return new PrefixdError("context_exceeded", `${name} is ${length} tokens long; the model takes ${this.#positions}.`);
  }
}
