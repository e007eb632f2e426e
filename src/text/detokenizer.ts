import type { Tokenizer } from "./tokenizer.ts";

/**
 * Turns bytes into text piece by piece. A character is given out only when it is complete; bytes that are not UTF-8 become
 * U+FFFD exactly as if all had been decoded at once (WHATWG Encoding's streaming decoder).
 */
export class Utf8Stream {
  /** Made with the first bytes: most streams need none (see TextStream). */
  #decoder: InstanceType<typeof TextDecoder> | null = null;

  push(bytes: Uint8Array): string {
    if (bytes.length === 0) return "";
    this.#decoder ??= new TextDecoder("utf-8", { ignoreBOM: true });
    return this.#decoder.decode(bytes, { stream: true });
  }

  /** What is left of an incomplete character: U+FFFD or nothing. */
  end(): string {
    return this.#decoder?.decode() ?? "";
  }
}

/**
 * What a tokenizer's tokens add to a text that ends with a whole character: their text if they are whole characters themselves, null
 * if they begin or end within one. Nearly all tokens are whole, so a look-up nearly always does what a decoder would.
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
