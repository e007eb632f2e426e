/** JSON bodies as RFC 8259 has them: UTF-8, no key twice in one object, no halves of characters. */
import type { FastifyInstance } from "fastify";
import { PrefixdError } from "../errors.ts";

const UTF8 = /^\s*("?)(utf-?8|us-ascii)\1\s*$/i;
/** An escape of half a surrogate pair; it may have its other half. */
const HALF = /\\u[dD][89a-fA-F]/;

/** Levels and keys of one object: more than any request has, and few enough that no body takes long to read. */
const MAX_DEPTH = 32;
const MAX_KEYS = 4096;

/** Fastify's own parser, which also refuses keys that lead to prototypes, between checks of our own. */
export function parseJsonBodies(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser("error", "error");
  app.removeContentTypeParser("application/json");
  app.addContentTypeParser<Buffer>("application/json", { parseAs: "buffer" }, (request, bytes, done) => {
    try {
      const text = textOf(bytes, request.headers["content-type"] ?? "");
      checkObjects(text);
      void parse(request, text, (error, value: unknown) => done(error ?? (HALF.test(text) ? halfCharacter(value) : null), value));
    } catch (error) {
      done(error as Error);
    }
  });
}

/**
 * The body as text; a byte order mark is none of it.
 * @throws PrefixdError unsupported_media_type, invalid_request
 */
function textOf(bytes: Buffer, contentType: string): string {
  const charset = /;\s*charset=([^;]*)/i.exec(contentType)?.[1];
  if (charset !== undefined && !UTF8.test(charset)) throw new PrefixdError("unsupported_media_type", "JSON is sent as UTF-8; leave the charset away.");
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new PrefixdError("invalid_request", "The body is not UTF-8.");
  }
}

/**
 * Looks for keys that come twice in one object, and for objects that no request has. Linear in the text, a few milliseconds per MiB; what is
 * no JSON is left to the parser.
 * @throws PrefixdError invalid_request
 */
export function checkObjects(text: string): void {
  /** Of each open object its keys, the first one without a set; null: an array. */
  const open: (Set<string> | string | undefined | null)[] = [];
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x7b || code === 0x5b) {
      if (open.push(code === 0x7b ? undefined : null) > MAX_DEPTH) throw new PrefixdError("invalid_request", `The body is nested deeper than ${MAX_DEPTH} levels.`);
    } else if (code === 0x7d || code === 0x5d) open.pop();
    else if (code === 0x22) {
      const start = at;
      at = endOfString(text, start);
      const keys = open[open.length - 1];
      if (keys === null || open.length === 0 || !isKey(text, at + 1)) continue;
      const key = keyOf(text.slice(start, at + 1));
      if (keys === undefined) open[open.length - 1] = key;
      else if (typeof keys === "string" ? keys === key : keys.has(key)) throw new PrefixdError("invalid_request", `The key ${shown(key)} comes twice in one object of the body.`);
      else if (typeof keys === "string") open[open.length - 1] = new Set([keys, key]);
      else if (keys.add(key).size > MAX_KEYS) throw new PrefixdError("invalid_request", `An object of the body has more than ${MAX_KEYS} keys.`);
    }
  }
}

/** A key as its object will have it: escapes are not what tells keys apart. */
function keyOf(quoted: string): string {
  if (!quoted.includes("\\")) return quoted.slice(1, -1);
  try {
    return JSON.parse(quoted) as string;
  } catch {
    return quoted;
  }
}

/** Where the string ends that begins at `start`: at the next quote that no backslash escapes, or with the text. */
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

interface Place {
  readonly value: object;
  readonly within: Place | null;
  readonly name: string;
}

/** What is wrong with the first string, or key, that has half of a surrogate pair; null: there is none. */
function halfCharacter(value: unknown): PrefixdError | null {
  const places: Place[] = [{ value: { "The body": value }, within: null, name: "" }];
  for (const place of places) {
    const isArray = Array.isArray(place.value);
    for (const key of Object.keys(place.value)) {
      if (!isArray && isHalf(key)) return half(`${nameOf(place)}: a key`);
      const inner = (place.value as Record<string, unknown>)[key];
      if (typeof inner !== "string" && (typeof inner !== "object" || inner === null)) continue;
      const within: Place = { value: inner as object, within: place, name: isArray ? `[${key}]` : `.${key}` };
      if (typeof inner !== "string") places.push(within);
      else if (isHalf(inner)) return half(nameOf(within));
    }
  }
  return null;
}

const half = (name: string): PrefixdError => new PrefixdError("invalid_request", `${name} has half of a surrogate pair, which is no character.`);

/** Node 20 has `isWellFormed`, of which TypeScript's library for it does not know. */
const isHalf = (text: string): boolean => /\p{Surrogate}/u.test(text);

/** Such as `prompts[3]`. */
function nameOf(place: Place): string {
  const names: string[] = [];
  for (let at: Place | null = place; at !== null; at = at.within) names.push(at.name);
  // The first two are what holds the body, and the body.
  return names.length < 3 ? "The body" : shortened(names.reverse().slice(2).join("").replace(/^\./, ""));
}

const shortened = (name: string): string => (name.length > 100 ? `${name.slice(0, 100)}...` : name);
const shown = (key: string): string => JSON.stringify(shortened(key));
