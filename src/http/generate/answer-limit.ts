import { PrefixdError } from "../../errors.ts";
import { mostNewTokens } from "../../generation/lengths.ts";
import type { ValidGenerateRequest } from "../../generation/service.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import type { ResponseOptions } from "./parse.ts";

/** Longest JSON of a double, in bytes, such as -1.2345678901234567e-10. */
const NUMBER = 25;
/** Bytes around the id, text and number of one of the likeliest tokens. */
const AROUND_TOP = '{"id":,"token":,"logprob":},'.length;

/** Bounds a response's size from its request, before computing anything. */
export class AnswerLimit {
  readonly #limit: number;
  readonly #positions: number;
  /** Bytes of an id and of the longest token's text, as JSON. */
  readonly #id: number;
  readonly #text: number;

  /**
   * Scans the whole vocabulary.
   * @param limit bytes of a response
   * @param positions the model's n_positions
   */
  constructor(limit: number, tokenizer: Pick<Tokenizer, "vocabSize" | "tokenText">, positions: number) {
    this.#limit = limit;
    this.#positions = positions;
    this.#id = String(tokenizer.vocabSize - 1).length;
    this.#text = 0;
    for (let id = 0; id < tokenizer.vocabSize; id++)
      this.#text = Math.max(this.#text, Buffer.byteLength(JSON.stringify(tokenizer.tokenText(id))));
  }

  /** @throws PrefixdError answer_too_large, which names the fields that make it so */
  check(request: ValidGenerateRequest, { returnTokenIds }: Pick<ResponseOptions, "returnTokenIds">): void {
    const { prompts, n, bestOf, beams, echo, logprobs } = request;
    // Rows that are not returned are computed too, and held until they prove to be worse.
    const rows = beams?.numBeams ?? bestOf ?? n;
    const tokens = prompts.reduce(
      (sum, { length }) => sum + (echo ? length : 0) + mostNewTokens(request, length, this.#positions),
      0,
    );
    const bytes = rows * tokens * this.#bytesOfToken(logprobs, returnTokenIds);
    if (bytes <= this.#limit) return;
    const fields = [
      ...(logprobs === null || logprobs === 0 ? [] : ["logprobs"]),
      ...(rows === 1 ? [] : [beams !== null ? "num_beams" : bestOf !== null ? "best_of" : "n"]),
      "max_new_tokens",
      ...(prompts.length === 1 ? [] : ["the number of prompts"]),
    ];
    const without = echo ? ", or omit echo" : "";
    throw new PrefixdError(
      "answer_too_large",
      `The answer could have ${bytes} bytes (${rows * tokens} tokens, each counted as the vocabulary's longest); this server allows ${this.#limit}. Lower ${fields.join(", ")}${without}.`,
    );
  }

  /** Most bytes that one token of a choice adds to the JSON. */
  #bytesOfToken(logprobs: number | null, returnTokenIds: boolean): number {
    const top = AROUND_TOP + this.#id + this.#text + NUMBER;
    return (
      this.#text +
      (returnTokenIds ? this.#id + 1 : 0) +
      (logprobs === null ? 0 : NUMBER + "[],,".length + logprobs * top)
    );
  }
}
