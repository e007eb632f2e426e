import { Utf8Stream } from "./detokenizer.ts";
import { StopMatcher, type StopStrings } from "./stop-strings.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface TextPiece {
  /** Text that is now certain: whole characters before any stop string. */
  readonly text: string;
  /** This token has completed a stop string: `text` is the last piece. */
  readonly stopped: boolean;
}

/** The text of one choice as its tokens come: detokenised, and ended before the first stop string. */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #matcher: StopMatcher;
  readonly #utf8 = new Utf8Stream();

  constructor(tokenizer: Tokenizer, stops: StopStrings) {
    this.#tokenizer = tokenizer;
    this.#matcher = new StopMatcher(stops);
  }

  push(id: number): TextPiece {
    const { emit, stopped } = this.#matcher.push(this.#tokenizer.bytesOf(id));
    const text = this.#utf8.push(emit);
    return { text: stopped ? text + this.#utf8.end() : text, stopped };
  }

  /** The choice has ended for another reason: the text that was held back. */
  end(): string {
    return this.#utf8.push(this.#matcher.end()) + this.#utf8.end();
  }
}
