/** Which tokens may be triggers. */
import { TrainingError } from "../../errors.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";

export interface Triggers {
  readonly ids: readonly number[];
  /** Null if their text would be read as other tokens. */
  readonly text: string | null;
}

/** One line: the text as JSON has it, and the ids. */
export const shownTriggers = ({ ids, text }: Triggers): string =>
  `triggers: ${text === null ? "(their text is read as other tokens)" : JSON.stringify(text)}, token ids ${ids.join(" ")}`;

/** Begins a search without a text, repeated (Wallace et al. 2019); a vocabulary may have none of them as one token. */
const FIRST_WORDS = [" the", "the", " a", "a"];
/** Controls, formats, private use, halves of pairs, line ends; and the mark of what is no whole character. */
const NOT_PRINTABLE = /[\p{C}\p{Zl}\p{Zp}\uFFFD]/u;

export class TriggerVocabulary {
  /** Ids that may be triggers, ascending. */
  readonly ids: Int32Array;
  readonly #tokenizer: Tokenizer;
  readonly #anyToken: boolean;

  /**
   * @param anyToken also tokens that cannot be typed; never special ones, nor those without text
   * @throws TrainingError `options_invalid` if there are none
   */
  constructor(tokenizer: Tokenizer, eosIds: readonly number[], anyToken: boolean) {
    [this.#tokenizer, this.#anyToken] = [tokenizer, anyToken];
    const mayBe = (id: number): boolean =>
      !tokenizer.isSpecial(id) && !eosIds.includes(id) && tokenizer.bytesOf(id).length > 0 && this.fits([id]);
    this.ids = Int32Array.from({ length: tokenizer.vocabSize }, (_, id) => id).filter(mayBe);
    if (this.ids.length === 0) throw new TrainingError("options_invalid", "The model has no token that can be typed.");
  }

  /** Whether tokens may stand together: unless any may, their text is printable and is read as these tokens again. */
  fits(ids: readonly number[]): boolean {
    if (this.#anyToken) return true;
    const text = this.#tokenizer.decode(ids);
    return text.trim() !== "" && !NOT_PRINTABLE.test(text) && this.#isReadAs(text, ids);
  }

  shown(ids: readonly number[]): Triggers {
    const text = this.#tokenizer.decode(ids);
    return { ids, text: this.#isReadAs(text, ids) ? text : null };
  }

  /**
   * The tokens of a text, repeated or cut to fit; null: one word, repeated.
   * @throws TrainingError `options_invalid`
   */
  initial(text: string | null, length: number): readonly number[] {
    if (text === null) return this.#oneWord(length);
    const ids = [...this.#tokenizer.encode(text)];
    // A word that follows another one has a token of its own, with the space before it.
    const again = this.#tokenizer.encode(` ${text.trim()}`);
    while (ids.length > 0 && ids.length < length) ids.push(...again);
    const cut = ids.slice(0, length);
    if (cut.length === 0) throw new TrainingError("options_invalid", "The initial text has no tokens.");
    const strange = cut.find((id) => !this.ids.includes(id));
    if (strange !== undefined)
      throw new TrainingError(
        "options_invalid",
        `The initial text has the token ${JSON.stringify(this.#tokenizer.tokenText(strange))}, which cannot be a trigger.`,
      );
    if (!this.fits(cut))
      throw new TrainingError(
        "options_invalid",
        `The initial text, repeated or cut to ${length} tokens, is read as other tokens than these: begin with another text.`,
      );
    return cut;
  }

  #oneWord(length: number): readonly number[] {
    const words = FIRST_WORDS.map((word) => this.#tokenizer.encode(word)).filter((ids) => ids.length === 1);
    for (const id of [...words.map((ids) => ids[0]!), ...this.ids]) {
      const repeated = new Array<number>(length).fill(id);
      if (this.ids.includes(id) && this.fits(repeated)) return repeated;
    }
    throw new TrainingError("options_invalid", "No token of the model can be repeated: begin with a text.");
  }

  #isReadAs(text: string, ids: readonly number[]): boolean {
    const read = this.#tokenizer.encode(text);
    return read.length === ids.length && ids.every((id, i) => id === read[i]);
  }
}
