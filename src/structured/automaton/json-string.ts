/**
 * The inside of JSON strings in its canonical form: characters as they are, escapes only where they are needed, and the
 * shortest.
 */
import { isUtf8 } from "node:buffer";
import type { Network, Rule } from "./network.ts";
import { ANY, complement, has, intersection, type CodePoints } from "./code-points.ts";
import { drawUtf8 } from "./utf8.ts";

const [QUOTE, BACKSLASH, FIRST_PLAIN] = [0x22, 0x5c, 0x20];
/** Characters that must be escaped. */
const ESCAPED: CodePoints = [
  [0, FIRST_PLAIN - 1],
  [QUOTE, QUOTE],
  [BACKSLASH, BACKSLASH],
];
const PLAIN = complement(ESCAPED);

/**
 * Whether a token of these bytes may stand anywhere inside a string: whole characters, none of them escaped. Returns
 * their number; 0: it may not.
 */
export function plainCharacters(bytes: Uint8Array): number {
  if (!isUtf8(bytes)) return 0;
  let characters = 0;
  for (const byte of bytes) {
    if (byte < FIRST_PLAIN || byte === QUOTE || byte === BACKSLASH) return 0;
    // Bytes 10xxxxxx go on with a character.
    if (byte >> 6 !== 0b10) characters++;
  }
  return characters;
}

/** Whether none of these characters is escaped. */
export const isPlain = (set: CodePoints): boolean => intersection(set, ESCAPED).length === 0;

/** Draws the reading of one of these characters, as it stands in a JSON string. */
export function drawCharacter(net: Network, set: CodePoints, from: number, to: number): void {
  drawUtf8(net, intersection(set, PLAIN), from, to);
  for (const [first, last] of ESCAPED)
    for (let code = first; code <= last; code++)
      if (has(set, code)) net.text(from, JSON.stringify(String.fromCharCode(code)).slice(1, -1), to);
}

/** Draws the reading of `min` to `max` characters of any kind. */
export function drawCharacters(net: Network, min: number, max: number, from: number, to: number): void {
  const character = (net.characterRule ??= net.shared("character", (a, b) => drawCharacter(net, ANY, a, b)));
  let at = from;
  const bounded = max === Infinity ? min : max;
  // Without a least or most number there is nothing to count.
  if (bounded === 0 && max === Infinity) return net.call(from, anyText(net, character), to);
  for (let count = 0; count < bounded; count++) {
    const next = net.state();
    if (count >= min) net.jump(at, to);
    net.room.set(at, max - count);
    net.call(at, character, next);
    at = next;
  }
  net.room.set(at, max - bounded);
  if (max === Infinity) net.call(at, anyText(net, character), to);
  else net.jump(at, to);
}

/** Any number of characters: one rule for all strings, so that they share their states. */
function anyText(net: Network, character: Rule): Rule {
  return net.shared("text", (from, to) => {
    const loop = net.state();
    net.jump(from, loop);
    net.room.set(loop, Infinity);
    net.call(loop, character, loop);
    net.jump(loop, to);
  });
}
