import type { Tokenizer } from "./tokenizer.ts";

/**
 * Turns bytes into text piece by piece. A character is given out only when it is complete; bytes that are not UTF-8 become
 * U+FFFD exactly as if all had been decoded at once (WHATWG Encoding's streaming decoder).
 */
export class Utf8Stream {
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  push(bytes: Uint8Array): string {
    return bytes.length === 0 ? "" : this.#decoder.decode(bytes, { stream: true });
  }

  /** What is left of an incomplete character: U+FFFD or nothing. */
  end(): string {
    return this.#decoder.decode();
  }
}

/** Token ids to text, one by one: all pieces together are `tokenizer.decode(ids)`. */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #stream = new Utf8Stream();

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  push(id: number): string {
    return this.#stream.push(this.#tokenizer.bytesOf(id));
  }

  end(): string {
    return this.#stream.end();
  }
}
