/** Code points as UTF-8 bytes. */
import type { Network } from "./network.ts";
import type { CodePoints } from "./code-points.ts";

/** The ranges of code points whose encodings have the same length; surrogates have none. */
const LENGTHS = [
  [0, 0x7f],
  [0x80, 0x7ff],
  [0x800, 0xd7ff],
  [0xe000, 0xffff],
  [0x10000, 0x10ffff],
] as const;

/** Draws the reading of one of these code points (the construction of RE2 and utf8-ranges). */
export function drawUtf8(net: Network, set: CodePoints, from: number, to: number): void {
  for (const [lo, hi] of set) {
    for (const [first, last] of LENGTHS) {
      const [low, high] = [Math.max(lo, first), Math.min(hi, last)];
      if (low <= high) drawBytes(net, bytesOf(low), bytesOf(high), from, to);
    }
  }
}

const bytesOf = (code: number): number[] => [...Buffer.from(String.fromCodePoint(code))];

/** All byte strings from `lo` to `hi`, which are equally long encodings. */
function drawBytes(net: Network, lo: readonly number[], hi: readonly number[], from: number, to: number): void {
  const [first, last] = [lo[0]!, hi[0]!];
  if (lo.length === 1) return net.range(from, first, last, to);
  const [low, high] = [lo.slice(1), hi.slice(1)];
  const least = low.map(() => 0x80);
  const most = low.map(() => 0xbf);
  const between = (a: number, b: number, tailFrom: readonly number[], tailTo: readonly number[]): void => {
    const next = net.state();
    net.range(from, a, b, next);
    drawBytes(net, tailFrom, tailTo, next, to);
  };
  if (first === last) return between(first, first, low, high);
  const wholeFirst = low.every((byte) => byte === 0x80);
  const wholeLast = high.every((byte) => byte === 0xbf);
  if (!wholeFirst) between(first, first, low, most);
  const [a, b] = [wholeFirst ? first : first + 1, wholeLast ? last : last - 1];
  if (a <= b) between(a, b, least, most);
  if (!wholeLast) between(last, last, least, high);
}
