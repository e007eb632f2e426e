import type { AddedToken } from "./added-tokens.ts";

/** `\w` in Rust's regular expressions, which tokenizers uses (Unicode TR18, annex C). */
const WORD = String.raw`[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]`;
const AFTER_WORD = new RegExp(`(?<=${WORD})`, "uy");
const BEFORE_WORD = new RegExp(WORD, "uy");
const BLANKS = /\p{White_Space}*/uy;
/** White space is always one UTF-16 unit. */
const BLANK = /\p{White_Space}/u;

/**
 * Finds added tokens in texts, as tokenizers' `AddedVocabulary::find_matches` does: leftmost, then longest. A match
 * that its flags rule out stays text, even if it contains a shorter token. Linear in the text.
 */
export class AddedTokenSplitter {
  readonly #tokens: ReadonlyMap<string, AddedToken>;
  readonly #splitSpecial: boolean;
  readonly #pattern: RegExp | null;

  /**
   * @param tokens by the text to look for
   * @param splitSpecial treat special tokens as ordinary text
   */
  constructor(tokens: ReadonlyMap<string, AddedToken>, splitSpecial: boolean) {
    this.#tokens = tokens;
    this.#splitSpecial = splitSpecial;
    const longestFirst = [...tokens.keys()].filter((content) => content !== "").sort((a, b) => b.length - a.length);
    this.#pattern =
      longestFirst.length === 0
        ? null
        : new RegExp(longestFirst.map((content) => content.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|"), "gu");
  }

  /** Token ids and the non-empty texts between them. */
  split(text: string): (number | string)[] {
    if (this.#pattern === null) return text === "" ? [] : [text];
    const parts: (number | string)[] = [];
    let done = 0;
    for (const match of text.matchAll(this.#pattern)) {
      const token = this.#tokens.get(match[0]) as AddedToken;
      let start = match.index;
      let end = start + match[0].length;
      if (token.special && this.#splitSpecial) continue;
      if (token.singleWord && (matchesAt(AFTER_WORD, text, start) || matchesAt(BEFORE_WORD, text, end))) continue;
      if (token.lstrip) while (start > done && BLANK.test(text[start - 1] as string)) start--;
      if (token.rstrip && matchesAt(BLANKS, text, end)) end = BLANKS.lastIndex;
      if (done < start) parts.push(text.slice(done, start));
      parts.push(token.id);
      done = end;
    }
    if (done < text.length) parts.push(text.slice(done));
    return parts;
  }
}

function matchesAt(sticky: RegExp, text: string, index: number): boolean {
  sticky.lastIndex = index;
  return sticky.test(text);
}
