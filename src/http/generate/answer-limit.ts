import { PrefixdError } from "../../errors.ts";
import { mostNewTokens } from "../../generation/lengths.ts";
import type { ValidGenerateRequest } from "../../generation/service.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { OWN_DIALECT, type Dialect } from "./dialect.ts";
import type { ResponseOptions } from "./parse.ts";

/** Bytes of the vocabulary's longest id and longest text, as JSON. */
export interface LongestToken {
  readonly id: number;
  readonly text: number;
}

/** Most bytes that one token of a choice adds to an API's answer. */
export type BytesOfToken = (longest: LongestToken, logprobs: number | null, returnTokenIds: boolean) => number;

/** Bounds a response's size from its request, before computing anything. */
export class AnswerLimit {
  readonly #limit: number;
  readonly #positions: number;
  readonly #longest: LongestToken;

  /**
   * Scans the whole vocabulary.
   * @param limit bytes of a response
   * @param positions the model's n_positions
   */
  constructor(limit: number, tokenizer: Pick<Tokenizer, "vocabSize" | "tokenText">, positions: number) {
    this.#limit = limit;
    this.#positions = positions;
    let text = 0;
    for (let id = 0; id < tokenizer.vocabSize; id++)
      text = Math.max(text, Buffer.byteLength(JSON.stringify(tokenizer.tokenText(id))));
    this.#longest = { id: String(tokenizer.vocabSize - 1).length, text };
  }

  /** @throws PrefixdError answer_too_large, which names the fields that make it so */
  check(
    request: ValidGenerateRequest,
    { returnTokenIds }: Pick<ResponseOptions, "returnTokenIds">,
    bytesOfToken: BytesOfToken,
    { nameOf }: Pick<Dialect, "nameOf"> = OWN_DIALECT,
  ): void {
    const { prompts, n, bestOf, beams, echo, logprobs } = request;
    // Rows that are not returned are computed too, and held until they prove to be worse.
    const rows = beams?.numBeams ?? bestOf ?? n;
    const tokens = prompts.reduce(
      (sum, { length }) => sum + (echo ? length : 0) + mostNewTokens(request, length, this.#positions),
      0,
    );
    const bytes = rows * tokens * bytesOfToken(this.#longest, logprobs, returnTokenIds);
    if (bytes <= this.#limit) return;
    const fields = [
      ...(logprobs === null || logprobs === 0 ? [] : ["logprobs"]),
      ...(rows === 1 ? [] : [beams !== null ? "num_beams" : bestOf !== null ? "best_of" : "n"]),
      nameOf("max_new_tokens"),
      ...(prompts.length === 1 ? [] : ["the number of prompts"]),
    ];
    const without = echo ? ", or omit echo" : "";
    throw new PrefixdError(
      "answer_too_large",
      `The answer could have ${bytes} bytes (${rows * tokens} tokens, each counted as the vocabulary's longest); this server allows ${this.#limit}. Lower ${fields.join(", ")}${without}.`,
    );
  }
}
