/**
 * ECMAScript's regular expressions over code points (flag u), without what a finite automaton cannot do or what is not
 * offered: lookaround, back references, word boundaries, properties, anchors in the middle. Those are refused with
 * their position.
 */
import { ANY, complement, single, union, type CodePoints } from "../automaton/code-points.ts";
import { unsupported } from "../limits.ts";
import { CLASSES, CONTROLS, DOT } from "./classes.ts";
import type { RegexNode } from "./node.ts";

const MAX_NESTING = 100;
const LAST = 0x10ffff;
const ANYTHING: RegexNode = { kind: "repeat", item: { kind: "set", set: ANY }, min: 0, max: Infinity };

/**
 * @param matching `whole`: the whole text must match, as vLLM's `regex`; `part`: a match anywhere suffices unless it is
 * anchored, as JSON Schema's `pattern`
 * @throws PrefixdError constraint_unsupported
 */
export function parseRegex(source: string, matching: "whole" | "part"): RegexNode {
  return new Parser(source, matching).parse();
}

class Parser {
  readonly #text: readonly string[];
  readonly #anywhere: boolean;
  #at = 0;
  #nesting = 0;

  constructor(source: string, matching: "whole" | "part") {
    this.#text = [...source];
    this.#anywhere = matching === "part";
  }

  parse(): RegexNode {
    const node = this.#alternatives();
    if (this.#at < this.#text.length) this.#fail("a ) without its (");
    return node;
  }

  #alternatives(): RegexNode {
    if (++this.#nesting > MAX_NESTING) this.#fail(`groups nested deeper than ${MAX_NESTING}`);
    const branches = [this.#sequence()];
    while (this.#take("|")) branches.push(this.#sequence());
    this.#nesting--;
    return branches.length === 1 ? branches[0]! : { kind: "either", branches };
  }

  #sequence(): RegexNode {
    const outermost = this.#nesting === 1;
    const opened = outermost && this.#take("^");
    const items: RegexNode[] = [];
    let closed = false;
    while (!closed && this.#at < this.#text.length && !"|)".includes(this.#peek())) {
      if (outermost && this.#peek() === "$" && "|".includes(this.#text[this.#at + 1] ?? "|")) closed = this.#take("$");
      else items.push(this.#quantified());
    }
    if (outermost && this.#anywhere) {
      if (!opened) items.unshift(ANYTHING);
      if (!closed) items.push(ANYTHING);
    }
    return { kind: "sequence", items };
  }

  #quantified(): RegexNode {
    const item = this.#atom();
    const counts = this.#quantifier();
    if (counts === null) return item;
    // A lazy quantifier matches the same texts.
    this.#take("?");
    if (this.#at < this.#text.length && "*+?{".includes(this.#peek())) this.#fail("a quantifier after a quantifier");
    return { kind: "repeat", item, ...counts };
  }

  #quantifier(): { min: number; max: number } | null {
    if (this.#take("*")) return { min: 0, max: Infinity };
    if (this.#take("+")) return { min: 1, max: Infinity };
    if (this.#take("?")) return { min: 0, max: 1 };
    if (this.#peek() !== "{") return null;
    const counts = /^\{(\d{1,6})(,(\d{0,6}))?\}/.exec(this.#text.slice(this.#at, this.#at + 16).join(""));
    if (counts === null) this.#fail("a { that begins no quantifier of at most 6 digits");
    const [all, least, comma, most] = counts;
    const min = Number(least);
    const max = comma === undefined ? min : most === "" ? Infinity : Number(most);
    if (max < min) this.#fail("a quantifier whose numbers are out of order");
    this.#at += all.length;
    return { min, max };
  }

  #atom(): RegexNode {
    const at = this.#at;
    const char = this.#next();
    switch (char) {
      case "(":
        return this.#group();
      case "[":
        return { kind: "set", set: this.#charClass() };
      case ".":
        return { kind: "set", set: DOT };
      case "\\":
        return { kind: "set", set: this.#escape(false) };
      case "^":
      case "$":
        return this.#fail("an anchor that is not at the very beginning or end", at);
      default:
        if ("*+?{}]".includes(char)) this.#fail(`a ${char} that must be written \\${char}`, at);
        return { kind: "set", set: single(char.codePointAt(0)!) };
    }
  }

  #group(): RegexNode {
    if (this.#peek() === "?") {
      const ahead = this.#text.slice(this.#at, this.#at + 3).join("");
      if (ahead.startsWith("?:")) this.#at += 2;
      else if (/^\?<[^=!]/.test(ahead)) this.#groupName();
      else this.#fail("lookaround, or a group of an unknown kind");
    }
    const inner = this.#alternatives();
    if (!this.#take(")")) this.#fail("a group that is not closed");
    return inner;
  }

  #groupName(): void {
    this.#at += 2;
    const end = this.#indexOf(">");
    const name = this.#text.slice(this.#at, end).join("");
    if (!/^[\p{ID_Start}$_][\p{ID_Continue}$\u200c\u200d]*$/u.test(name)) this.#fail("a group whose name is no name");
    this.#at = end + 1;
  }

  #charClass(): CodePoints {
    const negated = this.#take("^");
    const sets: CodePoints[] = [];
    while (!this.#take("]")) {
      if (this.#at >= this.#text.length) this.#fail("a class that is not closed");
      const from = this.#classAtom();
      if (this.#peek() !== "-" || (this.#text[this.#at + 1] ?? "]") === "]") {
        sets.push(from);
        continue;
      }
      this.#at++;
      const to = this.#classAtom();
      const [first, last] = [onlyOne(from), onlyOne(to)];
      if (first === null || last === null || first > last) this.#fail("a range out of order, or of classes");
      sets.push([[first, last]]);
    }
    const set = union(...sets);
    return negated ? complement(set) : set;
  }

  #classAtom(): CodePoints {
    const char = this.#next();
    return char === "\\" ? this.#escape(true) : single(char.codePointAt(0)!);
  }

  /** After a backslash. */
  #escape(inClass: boolean): CodePoints {
    if (this.#at >= this.#text.length) this.#fail("a \\ at the end");
    const at = this.#at - 1;
    const char = this.#next();
    if (Object.hasOwn(CLASSES, char)) return CLASSES[char]!;
    if (char === "0" && /^\d$/.test(this.#peek())) this.#fail("an octal escape", at);
    if (Object.hasOwn(CONTROLS, char)) return single(CONTROLS[char]!);
    if (char === "b" && inClass) return single(8);
    if (char === "x") return single(this.#hex(2));
    if (char === "u") return single(this.#take("{") ? this.#braced() : this.#utf16());
    if (/[A-Za-z0-9]/.test(char)) this.#fail(`\\${char}, a back reference, boundary, property or unknown escape`, at);
    return single(char.codePointAt(0)!);
  }

  #hex(digits: number): number {
    const text = this.#text.slice(this.#at, this.#at + digits).join("");
    if (text.length !== digits || !/^[0-9A-Fa-f]+$/.test(text)) this.#fail("a malformed escape");
    this.#at += digits;
    return parseInt(text, 16);
  }

  /** `\uXXXX`, or two of them for one character. */
  #utf16(): number {
    const first = this.#hex(4);
    if (first < 0xd800 || first > 0xdbff || this.#text.slice(this.#at, this.#at + 2).join("") !== "\\u") return first;
    const before = this.#at;
    this.#at += 2;
    const second = this.#peek() === "{" ? 0 : this.#hex(4);
    if (second >= 0xdc00 && second <= 0xdfff) return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    this.#at = before;
    return first;
  }

  #braced(): number {
    const end = this.#indexOf("}");
    const text = this.#text.slice(this.#at, end).join("");
    const code = /^[0-9A-Fa-f]+$/.test(text) ? parseInt(text, 16) : LAST + 1;
    if (code > LAST) this.#fail("a malformed escape");
    this.#at = end + 1;
    return code;
  }

  #indexOf(char: string): number {
    const at = this.#text.indexOf(char, this.#at);
    if (at < 0) this.#fail(`a missing ${char}`);
    return at;
  }

  /** The next character; "" at the end. */
  #peek(): string {
    return this.#text[this.#at] ?? "";
  }

  #next(): string {
    const char = this.#text[this.#at++];
    if (char === undefined) this.#fail("an end too early");
    return char;
  }

  #take(char: string): boolean {
    if (this.#text[this.#at] !== char) return false;
    this.#at++;
    return true;
  }

  #fail(what: string, at = this.#at): never {
    throw unsupported(`The regular expression has, at character ${Math.min(at, this.#text.length)}, ${what}.`);
  }
}

function onlyOne(set: CodePoints): number | null {
  const [range] = set;
  return set.length === 1 && range![0] === range![1] ? range![0] : null;
}
