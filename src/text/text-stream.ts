import { Utf8Stream, WholeTexts } from "./detokenizer.ts";
import { seenByStops, StopMatcher, type Stops } from "./stop-strings.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface DecodedText {
  /** Text that can no longer change: whole characters before any stop string. */
  readonly text: string;
  /** This token ended the choice, by a stop string or as a stop token; `text` is the last of it. */
  readonly stopped: boolean;
}

const wholeTexts = new WeakMap<Tokenizer, WholeTexts>();

function wholeTextsOf(tokenizer: Tokenizer): WholeTexts {
  let texts = wholeTexts.get(tokenizer);
  if (texts === undefined) wholeTexts.set(tokenizer, (texts = new WholeTexts(tokenizer)));
  return texts;
}

/** The text of one choice as its tokens arrive: detokenised and cut at stop strings. */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  readonly #matcher: StopMatcher;
  readonly #utf8 = new Utf8Stream();
  readonly #wholeTexts: WholeTexts;
  readonly #stops: Stops;
  /** Whether the tokens so far end with a whole character. */
  #whole = true;

  constructor(tokenizer: Tokenizer, stops: Stops) {
    this.#tokenizer = tokenizer;
    this.#matcher = new StopMatcher(stops);
    this.#wholeTexts = wholeTextsOf(tokenizer);
    this.#stops = stops;
  }

  push(id: number): DecodedText {
    const { patterns, tokenIds } = this.#stops;
    if (tokenIds.size > 0 && tokenIds.has(id)) return { text: this.end(), stopped: true };
    const known = patterns.length > 0 ? null : this.#wholeTexts.of(id);
    if (known !== null && this.#whole) return { text: known, stopped: false };
    const bytes = this.#tokenizer.bytesOf(id);
    // Whatever came before, a whole token ends with a whole character. An empty one changes nothing.
    if (bytes.length > 0) this.#whole = known !== null;
    const special = patterns.length > 0 && this.#tokenizer.isSpecial(id);
    const { emit, stopped } = special
      ? this.#matcher.push(seenByStops(this.#tokenizer, id), false)
      : this.#matcher.push(bytes);
    const text = this.#utf8.push(emit);
    return { text: stopped ? text + this.#utf8.end() : text, stopped };
  }

  /** Call when the choice ends for another reason: returns the held text. */
  end(): string {
    return this.#utf8.push(this.#matcher.end()) + this.#utf8.end();
  }
}
