/** Strict JSON bodies (RFC 8259): UTF-8, no duplicate keys, no lone surrogates. */
import type { FastifyInstance } from "fastify";
import { PrefixdError } from "../errors.ts";

const UTF8 = /^\s*("?)(utf-?8|us-ascii)\1\s*$/i;
/** An escaped surrogate, which may be part of a pair. */
const HALF = /\\u[dD][89a-fA-F]/;

/**
 * Limits on nesting, keys, containers and key length: more than any request needs, and few enough that no body takes
 * long to process, whatever is done with it.
 */
const MAX_DEPTH = 32;
const MAX_KEYS = 4096;
const MAX_NESTED = 4096;
const MAX_KEY_LENGTH = 1024;

/** Keys that code which copies fields could mistake for a prototype. */
const PROTOTYPES: ReadonlySet<string> = new Set(["__proto__", "prototype"]);

/** Fastify's parser, with our own checks before and after it. */
export function parseJsonBodies(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser("ignore", "ignore");
  app.removeContentTypeParser("application/json");
  app.addContentTypeParser<Buffer>("application/json", { parseAs: "buffer" }, (request, bytes, done) => {
    try {
      const text = textOf(bytes, request.headers["content-type"] ?? "");
      checkObjects(text);
      void parse(request, text, (error, value: unknown) =>
        done(error ?? (HALF.test(text) ? halfCharacter(value) : null), value),
      );
    } catch (error) {
      done(error as Error);
    }
  });
}

/**
 * The body as text, without a byte order mark.
 * @throws PrefixdError unsupported_media_type, invalid_request
 */
function textOf(bytes: Buffer, contentType: string): string {
  const charset = /;\s*charset=([^;]*)/i.exec(contentType)?.[1];
  if (charset !== undefined && !UTF8.test(charset))
    throw new PrefixdError("unsupported_media_type", "JSON must be UTF-8 (RFC 8259); omit the charset.");
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new PrefixdError("invalid_request", "The body is not UTF-8.");
  }
}

/**
 * Refuses duplicate keys, keys that lead to prototypes, and more of anything than the limits. Linear in the text, a few
 * milliseconds per MiB; leaves invalid JSON to the parser.
 * @throws PrefixdError invalid_request
 */
export function checkObjects(text: string): void {
  /** Keys of each open object (a single key without a set); null for an array. */
  const open: (Set<string> | string | undefined | null)[] = [];
  let [nested, named] = [0, 0];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x7b || code === 0x5b) {
      if (open.push(code === 0x7b ? undefined : null) > MAX_DEPTH)
        throw new PrefixdError("invalid_request", `The body is nested deeper than ${MAX_DEPTH} levels.`);
      if (++nested > MAX_NESTED)
        throw new PrefixdError("invalid_request", `The body has more than ${MAX_NESTED} arrays and objects.`);
    } else if (code === 0x7d || code === 0x5d) open.pop();
    else if (code === 0x22) {
      const start = at;
      at = endOfString(text, start);
      const keys = open[open.length - 1];
      if (keys === null || open.length === 0 || !isKey(text, at + 1)) continue;
      if (++named > MAX_KEYS) throw new PrefixdError("invalid_request", `The body has more than ${MAX_KEYS} keys.`);
      if (at - start > MAX_KEY_LENGTH)
        throw new PrefixdError("invalid_request", `The body has a key of more than ${MAX_KEY_LENGTH} characters.`);
      const key = keyOf(text.slice(start, at + 1));
      if (PROTOTYPES.has(key)) throw new PrefixdError("invalid_request", `The body has the key ${shown(key)}.`);
      if (keys === undefined) open[open.length - 1] = key;
      else if (typeof keys === "string" ? keys === key : keys.has(key))
        throw new PrefixdError("invalid_request", `The key ${shown(key)} occurs twice in one object of the body.`);
      else if (typeof keys === "string") open[open.length - 1] = new Set([keys, key]);
      else keys.add(key);
    }
  }
}

/** A key with its escapes resolved, so that escaping cannot hide a duplicate. */
function keyOf(quoted: string): string {
  if (!quoted.includes("\\")) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}

/** Index of the quote that ends the string starting at `start`: the next unescaped one, or the end of the text. */
function endOfString(text: string, start: number): number {
  for (let end = text.indexOf('"', start + 1); ; end = text.indexOf('"', end + 1)) {
    if (end === -1) return text.length;
    let before = end - 1;
    while (text.charCodeAt(before) === 0x5c) before--;
    if ((end - before) % 2 === 1) return end;
  }
}

function isKey(text: string, at: number): boolean {
  for (; ; at++) {
    const code = text.charCodeAt(at);
    if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code === 0x3a;
  }
}

function halfCharacter(value: unknown): PrefixdError | null {
  const place = placeOfHalf(value);
  if (place === null) return null;
  const name = place === "" || place === KEY ? `The body${place}` : shortened(place.replace(/^\./, ""));
  return new PrefixdError("invalid_request", `${name} has half of a surrogate pair, which is not a character.`);
}

const KEY = ": a key";

/**
 * The place of a string or key with a lone surrogate, such as `.prompts[3]` or `.logit_bias: a key`; "" for the value
 * itself, null if there is none.
 */
function placeOfHalf(value: unknown): string | null {
  if (typeof value === "string") return isHalf(value) ? "" : null;
  if (typeof value !== "object" || value === null) return null;
  if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index++) {
      const place = placeOfHalf(value[index]);
      if (place !== null) return `[${index}]${place}`;
    }
    return null;
  }
  for (const [key, inner] of Object.entries(value)) {
    if (isHalf(key)) return KEY;
    const place = placeOfHalf(inner);
    if (place !== null) return `.${key}${place}`;
  }
  return null;
}

/** Node 20 has `isWellFormed`, but TypeScript's library for it does not declare it. */
const isHalf = (text: string): boolean => /\p{Surrogate}/u.test(text);

const shortened = (name: string): string => (name.length > 100 ? `${name.slice(0, 100)}...` : name);
const shown = (key: string): string => JSON.stringify(shortened(key));
