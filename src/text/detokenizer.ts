import type { Tokenizer } from "./tokenizer.ts";

/**
 * Decodes bytes to text incrementally. Emits a character only when it is complete; invalid UTF-8 becomes U+FFFD exactly
 * as if all bytes had been decoded at once (WHATWG Encoding's streaming decoder).
 */
export class Utf8Stream {
  /** Created with the first bytes: most streams need none (see TextStream). */
  #decoder: InstanceType<typeof TextDecoder> | null = null;

  push(bytes: Uint8Array): string {
    if (bytes.length === 0) return "";
    this.#decoder ??= new TextDecoder("utf-8", { ignoreBOM: true });
    return this.#decoder.decode(bytes, { stream: true });
  }

  /** Ends the stream: U+FFFD for an incomplete character, else nothing. */
  end(): string {
    return this.#decoder?.decode() ?? "";
  }
}

/**
 * What each token adds to a text that ends with a whole character: its text if it consists of whole characters, null if
 * it begins or ends within one. Nearly all tokens are whole, so a look-up usually replaces the decoder.
 */
export class WholeTexts {
  readonly #tokenizer: Tokenizer;
  readonly #texts: (string | null | undefined)[];

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    this.#texts = new Array<undefined>(tokenizer.vocabSize);
  }

  of(id: number): string | null {
    const known = this.#texts[id];
    return known === undefined ? (this.#texts[id] = this.#make(id)) : known;
  }

  #make(id: number): string | null {
    try {
      return new TextDecoder("utf-8", { ignoreBOM: true, fatal: true }).decode(this.#tokenizer.bytesOf(id));
    } catch {
      return null;
    }
  }
}
