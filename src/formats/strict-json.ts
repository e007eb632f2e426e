/**
 * Parser for untrusted JSON: bounds depth and size, refuses duplicate keys, returns objects as Maps (so `__proto__` is
 * an ordinary key). Linear time and memory.
 */
export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
export type JsonObject = ReadonlyMap<string, JsonValue>;

export interface JsonLimits {
  readonly maxDepth: number;
  /** Total number of values, containers included. */
  readonly maxValues: number;
  /**
   * Also accept what Python's json module reads and writes beyond JSON: NaN, Infinity, -Infinity; numbers beyond
   * doubles become infinite.
   */
  readonly pythonNumbers?: boolean;
}

/** The defect, as a clause that fits after "The file is not valid: ". */
export class JsonDefect extends Error {
  override readonly name = "JsonDefect";
}

export function isJsonObject(value: JsonValue | undefined): value is JsonObject {
  return value instanceof Map;
}

/** Throws `JsonDefect`. */
export function parseStrictJson(text: string, limits: JsonLimits): JsonValue {
  return new Parser(text, limits).document();
}

/** Throws `JsonDefect` when the bytes are not UTF-8. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new JsonDefect("it is not UTF-8 text");
  }
}

const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
/** No legitimate number has more digits; longer ones only cost time. */
const MAX_NUMBER_LENGTH = 64;
const LITERALS: ReadonlyMap<string, null | boolean> = new Map([
  ["null", null],
  ["true", true],
  ["false", false],
]);
const PYTHON_LITERALS: ReadonlyMap<string, null | boolean | number> = new Map<string, null | boolean | number>([
  ...LITERALS,
  ["NaN", NaN],
  ["Infinity", Infinity],
  ["-Infinity", -Infinity],
]);

class Parser {
  readonly #text: string;
  readonly #limits: JsonLimits;
  #at = 0;
  #values = 0;

  constructor(text: string, limits: JsonLimits) {
    this.#text = text;
    this.#limits = limits;
  }

  document(): JsonValue {
    const value = this.#value(0);
    this.#space();
    if (this.#at !== this.#text.length) throw this.#defect("text after the end of the JSON value");
    return value;
  }

  #value(depth: number): JsonValue {
    this.#space();
    if (++this.#values > this.#limits.maxValues) throw this.#defect(`more than ${this.#limits.maxValues} JSON values`);
    const first = this.#text[this.#at];
    if (first === undefined) throw this.#defect("the JSON ends too early");
    if (first === "{" || first === "[") {
      if (depth >= this.#limits.maxDepth) throw this.#defect(`JSON nested deeper than ${this.#limits.maxDepth} levels`);
      this.#at++;
      return first === "{" ? this.#object(depth + 1) : this.#array(depth + 1);
    }
    if (first === '"') return this.#string();
    for (const [word, value] of this.#limits.pythonNumbers === true ? PYTHON_LITERALS : LITERALS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length;
        return value;
      }
    }
    return this.#number();
  }

  #object(depth: number): JsonObject {
    const object = new Map<string, JsonValue>();
    if (this.#skip("}")) return object;
    do {
      this.#space();
      if (this.#text[this.#at] !== '"') throw this.#defect("an object key is expected in the JSON");
      const key = this.#string();
      if (object.has(key)) throw this.#defect(`the JSON key ${quote(key)} occurs twice`);
      if (!this.#skip(":")) throw this.#defect("a colon is expected in the JSON");
      object.set(key, this.#value(depth));
    } while (this.#skip(","));
    if (!this.#skip("}")) throw this.#defect("a comma or a closing brace is expected in the JSON");
    return object;
  }

  #array(depth: number): readonly JsonValue[] {
    const array: JsonValue[] = [];
    if (this.#skip("]")) return array;
    do array.push(this.#value(depth));
    while (this.#skip(","));
    if (!this.#skip("]")) throw this.#defect("a comma or a closing bracket is expected in the JSON");
    return array;
  }

  #string(): string {
    const start = this.#at++;
    let plain = true;
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (Number.isNaN(code)) throw this.#defect("a JSON string does not end");
      if (code < 0x20) throw this.#defect("a JSON string has a raw control character");
      if (code === 0x22) break;
      if (code === 0x5c) {
        plain = false;
        this.#at++;
      }
      this.#at++;
    }
    this.#at++;
    if (plain) return this.#text.slice(start + 1, this.#at - 1);
    try {
      return JSON.parse(this.#text.slice(start, this.#at)) as string;
    } catch {
      throw this.#defect("a JSON string has an invalid escape");
    }
  }

  #number(): number {
    NUMBER.lastIndex = this.#at;
    const token = NUMBER.exec(this.#text)?.[0];
    if (token === undefined) throw this.#defect("a JSON value is expected");
    if (token.length > MAX_NUMBER_LENGTH) throw this.#defect("a JSON number has too many digits");
    const value = Number(token);
    if (!Number.isFinite(value) && this.#limits.pythonNumbers !== true)
      throw this.#defect("a JSON number is out of range");
    this.#at += token.length;
    return value;
  }

  #skip(character: string): boolean {
    this.#space();
    if (this.#text[this.#at] !== character) return false;
    this.#at++;
    return true;
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at++;
    }
  }

  #defect(what: string): JsonDefect {
    return new JsonDefect(`${what} (character ${this.#at})`);
  }
}

/** Quotes an untrusted string for an error message: escaped, at most 80 characters. */
export function quote(text: string): string {
  return JSON.stringify(text.length > 80 ? `${text.slice(0, 77)}...` : text);
}
