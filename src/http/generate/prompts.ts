import { setImmediate as nextTurn } from "node:timers/promises";
import { PrefixdError } from "../../errors.ts";
import { STRETCH, type Tokenizer } from "../../text/tokenizer.ts";

/** Checks and tokenises texts and token ids from requests. `positions` is the model's n_positions. */
export class PromptReader {
  readonly #tokenizer: Tokenizer;
  readonly #positions: number;

  constructor(tokenizer: Tokenizer, positions: number) {
    this.#tokenizer = tokenizer;
    this.#positions = positions;
  }

  /**
   * Reads prompts. Throws `empty_prompt`, `invalid_token_id`, `context_exceeded`.
   * @param names `names[i]` is what errors call `prompts[i]`
   * @param addSpecialTokens add the ids that the tokenizer puts around a text prompt
   */
  async read(
    prompts: readonly (string | readonly number[])[],
    names: readonly string[],
    addSpecialTokens: boolean,
  ): Promise<Int32Array[]> {
    const out: Int32Array[] = [];
    let stretch = 0;
    for (const [i, prompt] of prompts.entries()) {
      const name = names[i] ?? "prompt";
      if (typeof prompt !== "string") {
        if (prompt.length === 0) throw emptyPrompt(name);
        out.push(this.#ids(prompt, name));
        continue;
      }
      const bytes = Buffer.byteLength(prompt);
      stretch += bytes;
      // Let the event loop serve others in between.
      if (stretch > STRETCH && i > 0) {
        stretch = bytes;
        await nextTurn();
      }
      out.push(await this.#encode(prompt, name, addSpecialTokens));
    }
    return out;
  }

  /**
   * The id sequences of bad words. A text yields two: itself, and itself after a space, since a byte-level tokenizer
   * has different ids for a word at the start of a text and within it (transformers' documentation uses only the
   * second). Throws `invalid_token_id`, `invalid_parameter`.
   */
  async badWords(words: readonly (string | readonly number[])[]): Promise<number[][]> {
    const out: number[][] = [];
    let stretch = 0;
    for (const [i, word] of words.entries()) {
      if (typeof word !== "string") {
        out.push([...this.#ids(word, `bad_words[${i}]`)]);
        continue;
      }
      const bytes = 2 * Buffer.byteLength(word);
      stretch += bytes;
      if (stretch > STRETCH) {
        stretch = bytes;
        await nextTurn();
      }
      for (const form of word.startsWith(" ") ? [word] : [word, ` ${word}`]) {
        const ids = this.#withRows(this.#tokenizer.encode(form), `bad_words[${i}]`);
        // A normalizer may reduce it to nothing.
        if (ids.length === 0)
          throw new PrefixdError("invalid_parameter", `bad_words[${i}] has no tokens.`, { field: `bad_words[${i}]` });
        out.push([...ids]);
      }
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
      if (id >= vocabSize)
        throw new PrefixdError(
          "invalid_token_id",
          `logit_bias has the key ${shown}; token ids are 0 to ${vocabSize - 1}.`,
          { field: "logit_bias" },
        );
      out.set(id, value);
    }
    return out;
  }

  /** Checked token ids without duplicates. Throws `invalid_token_id`. */
  tokenIds(ids: readonly number[], name: string): number[] {
    return [...new Set(this.checked(ids, name))];
  }

  /**
   * Biases of id sequences; the last of equal ones wins, as in transformers. Throws `invalid_token_id`,
   * `invalid_parameter`.
   * @param single the entries of `logit_bias`
   */
  sequenceBias(
    pairs: readonly (readonly [readonly number[], number])[],
    single: ReadonlyMap<number, number>,
  ): { ids: readonly number[]; bias: number }[] {
    const out = new Map<string, { ids: readonly number[]; bias: number }>();
    for (const [i, [ids, bias]] of pairs.entries()) {
      this.checked(ids, `sequence_bias[${i}][0]`);
      if (ids.length === 1 && single.has(ids[0]!))
        throw new PrefixdError("invalid_parameter", `logit_bias and sequence_bias[${i}] both have token ${ids[0]!}.`);
      out.set(ids.join(), { ids, bias });
    }
    return [...out.values()];
  }

  /** A text's ids, however many. Throws `invalid_token_id`. */
  async tokenize(text: string, name: string, addSpecialTokens: boolean): Promise<Int32Array> {
    return this.#withRows(await this.#inSteps(text, addSpecialTokens, () => undefined), name);
  }

  async #encode(text: string, name: string, addSpecialTokens: boolean): Promise<Int32Array> {
    const { longestToken, around } = this.#tokenizer;
    // The longest token bounds the count from below, so text that cannot fit is refused without tokenising it.
    const atLeast =
      Math.ceil(Buffer.byteLength(text) / longestToken) +
      (addSpecialTokens ? around.before.length + around.after.length : 0);
    if (atLeast > this.#positions) throw this.#tooLong(name, `at least ${atLeast}`);
    const ids = await this.#inSteps(text, addSpecialTokens, (least) => {
      if (least > this.#positions) throw this.#tooLong(name, `at least ${least}`);
    });
    if (ids.length === 0) throw emptyPrompt(name);
    if (ids.length > this.#positions) throw this.#tooLong(name, String(ids.length));
    return this.#withRows(ids, name);
  }

  /** Encodes a text between the work of others. `check` is called with what its number of ids is at least. */
  async #inSteps(text: string, addSpecialTokens: boolean, check: (least: number) => void): Promise<Int32Array> {
    const steps = this.#tokenizer.encodeInSteps(text, addSpecialTokens);
    let step = steps.next();
    for (; step.done !== true; step = steps.next()) {
      check(step.value);
      await nextTurn();
    }
    return step.value;
  }

  /** Checks ids that the tokenizer made from a text. */
  #withRows(ids: Int32Array, name: string): Int32Array {
    const { vocabSize, beyondModel } = this.#tokenizer;
    const bad = ids.find((id) => id >= vocabSize);
    if (bad === undefined) return ids;
    const token = JSON.stringify(beyondModel.get(bad));
    throw new PrefixdError(
      "invalid_token_id",
      `${name} has ${token}, whose id is ${bad}: the tokenizer knows it, but the model's token ids are 0 to ${vocabSize - 1}.`,
      { field: name },
    );
  }

  #ids(ids: readonly number[], name: string): Int32Array {
    if (ids.length > this.#positions) throw this.#tooLong(name, String(ids.length));
    return Int32Array.from(this.checked(ids, name));
  }

  /** The ids, if all are in the vocabulary. Throws `invalid_token_id`. */
  checked(ids: readonly number[], name: string): readonly number[] {
    const { vocabSize } = this.#tokenizer;
    const bad = ids.findIndex((id) => id >= vocabSize || id < 0);
    if (bad >= 0)
      throw new PrefixdError(
        "invalid_token_id",
        `${name}[${bad}] is ${ids[bad]}; token ids are 0 to ${vocabSize - 1}.`,
        { field: `${name}[${bad}]` },
      );
    return ids;
  }

  #tooLong(name: string, length: string): PrefixdError {
    return new PrefixdError(
      "context_exceeded",
      `${name} is ${length} tokens long; the model takes ${this.#positions}.`,
      { field: name },
    );
  }
}

const emptyPrompt = (name: string): PrefixdError =>
  new PrefixdError("empty_prompt", `${name} is empty; to start without a prompt, send the id of the BOS token.`, {
    field: name,
  });
