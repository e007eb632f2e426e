/**
 * Numbers as digits: an optional minus, whole digits without leading zeros, and for numbers that need not be whole an
 * optional fraction. At most 15 digits altogether, so that different texts are different doubles and comparing digits
 * is comparing what JSON.parse reads.
 */
import type { Network, Rule } from "../automaton/network.ts";
import { failInvalid, failUnsupported } from "./errors.ts";

export const MAX_DIGITS = 15;

const BOUNDS = ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"] as const;

/** A bound >= 0 in decimal: its whole digits, without leading zeros ("" is 0), and those of its fraction. */
interface Decimal {
  readonly whole: string;
  readonly fraction: string;
}

/** Numbers from `least` to `most`; a bound that is `open` is not one of them itself. */
export interface Range {
  readonly least: number;
  readonly leastOpen: boolean;
  readonly most: number;
  readonly mostOpen: boolean;
}

export const EVERYTHING: Range = { least: -Infinity, leastOpen: false, most: Infinity, mostOpen: false };

/** Digits of a number's shortest decimal form; Infinity if it is written with an exponent. */
export function digitsOf(value: number): number {
  const text = String(Math.abs(value));
  return /^[0-9.]+$/.test(text) ? text.replace(".", "").replace(/^0+/, "").length : Infinity;
}

/** Draws the reading of the numbers of a range. */
export function drawNumbers(
  net: Network,
  { least, leastOpen, most, mostOpen }: Range,
  whole: boolean,
  from: number,
  to: number,
): void {
  const [low, high] = [clipped(least), clipped(most)];
  const positive = { least: Math.max(low, 0), leastOpen: low >= 0 && leastOpen, most: high, mostOpen };
  drawMagnitudes(net, positive, whole, from, to);
  if (low >= 0) return;
  // -0 is written only as part of a fraction.
  const zeroOpen = whole || (high === 0 && mostOpen);
  const negative = {
    least: Math.max(-high, 0),
    leastOpen: high < 0 ? mostOpen : zeroOpen,
    most: -low,
    mostOpen: leastOpen,
  };
  drawMagnitudes(net, negative, whole, net.after(from, "-"), to);
}

/** No number has more digits. */
const clipped = (bound: number): number => Math.max(-(10 ** MAX_DIGITS), Math.min(bound, 10 ** MAX_DIGITS));

/** Numbers >= 0 of a range of such. */
function drawMagnitudes(
  net: Network,
  { least, leastOpen, most, mostOpen }: Range,
  whole: boolean,
  from: number,
  to: number,
): void {
  if (most < 0 || least > most) return;
  const [low, high] = [decimal(least), decimal(most)];
  const drawing = new Digits(net, { low, lowOpen: leastOpen, high, highOpen: mostOpen }, whole, to);
  for (
    let width = Math.max(1, low.whole.length);
    width <= Math.min(MAX_DIGITS, Math.max(1, high.whole.length));
    width++
  )
    drawing.draw(width, from);
}

function decimal(value: number): Decimal {
  const [whole = "", fraction = ""] = plainText(value).split(".");
  return { whole: whole.replace(/^0+/, ""), fraction };
}

/** In decimal without an exponent; bounds have at most 15 digits, or are powers of ten. */
const plainText = (value: number): string => (Number.isInteger(value) ? BigInt(value).toString() : String(value));

interface Bounds {
  readonly low: Decimal;
  readonly lowOpen: boolean;
  readonly high: Decimal;
  readonly highOpen: boolean;
}

/** How the digits so far compare with the bounds: still equal to the beginning of either, or within. */
interface Place {
  /** Index of the next digit, in the whole part or in the fraction. */
  readonly digit: number;
  readonly inFraction: boolean;
  readonly onLow: boolean;
  readonly onHigh: boolean;
}

class Digits {
  readonly #net: Network;
  readonly #bounds: Bounds;
  readonly #isWhole: boolean;
  readonly #to: number;

  constructor(net: Network, bounds: Bounds, whole: boolean, to: number) {
    this.#net = net;
    this.#bounds = bounds;
    this.#isWhole = whole;
    this.#to = to;
  }

  /** Numbers with so many whole digits. */
  draw(width: number, from: number): void {
    const { low, lowOpen, high } = this.#bounds;
    const place = {
      digit: 0,
      inFraction: false,
      // No number is below 0.
      onLow: width === Math.max(1, low.whole.length) && (lowOpen || low.whole + low.fraction !== ""),
      onHigh: width === Math.max(1, high.whole.length),
    };
    this.#go(width, place, from);
  }

  #go(width: number, place: Place, from: number): void {
    const { digit, inFraction, onLow, onHigh } = place;
    const room = inFraction ? MAX_DIGITS - width - digit : width - digit;
    if (!onLow && !onHigh) return this.#free(width, place, from);
    if (!inFraction && room === 0) {
      this.#end(place, 0, from);
      if (!this.#isWhole && width < MAX_DIGITS) {
        const point = this.#net.after(from, ".");
        this.#go(width, { digit: 0, inFraction: true, onLow, onHigh }, point);
      }
      return;
    }
    if (inFraction && digit > 0) this.#end(place, digit, from);
    if (room === 0) return;
    const { low, high } = this.#bounds;
    const first = !inFraction && digit === 0 && width > 1 ? 1 : 0;
    const [least, most] = [onLow ? digitAt(low, place, width) : first, onHigh ? digitAt(high, place, width) : 9];
    for (let value = Math.max(first, least); value <= most; value++) {
      const next = { digit: digit + 1, inFraction, onLow: onLow && value === least, onHigh: onHigh && value === most };
      const to = this.#net.state();
      // Digits that make no difference are read together.
      let last = value;
      if (!next.onLow && !next.onHigh) while (last < most && !(onHigh && last + 1 === most)) last++;
      this.#net.range(from, 0x30 + value, 0x30 + last, to);
      value = last;
      this.#go(width, next, to);
    }
  }

  /**
   * The number may end here unless it is below or on an open bound. A number on `high` is not above it: its digits
   * would have been.
   */
  #end({ onLow, onHigh }: Place, fractionDigits: number, from: number): void {
    const { low, lowOpen, high, highOpen } = this.#bounds;
    const rest = (bound: Decimal): boolean => /[1-9]/.test(bound.fraction.slice(fractionDigits));
    const belowLow = onLow && (rest(low) || lowOpen);
    const onOpenHigh = onHigh && highOpen && !rest(high);
    if (!belowLow && !onOpenHigh) this.#net.jump(from, this.#to);
  }

  /** Within the bounds, whatever comes. */
  #free(width: number, { digit, inFraction }: Place, from: number): void {
    const room = this.#isWhole ? 0 : MAX_DIGITS - width;
    if (!inFraction) return this.#net.call(from, restOfNumber(this.#net, width, digit, room), this.#to);
    if (digit > 0) this.#net.jump(from, this.#to);
    if (room > digit) this.#net.call(from, moreDigits(this.#net, room - digit), this.#to);
  }
}

/** The rest of a number of `width` whole digits after its first `digit`, with at most `room` digits of a fraction. */
function restOfNumber(net: Network, width: number, digit: number, room: number): Rule {
  const first = digit === 0 && width > 1 ? 0x31 : 0x30;
  const left = width - digit;
  return net.shared(`${left} digits from ${first}, then up to ${room}`, (from, to) => {
    if (left > 0) {
      const next = net.state();
      net.range(from, first, 0x39, next);
      return net.call(next, restOfNumber(net, width, digit + 1, room), to);
    }
    net.jump(from, to);
    if (room > 0) net.call(net.after(from, "."), moreDigits(net, room), to);
  });
}

/** The bound's digit there; beyond its fraction it has zeros. */
function digitAt({ whole, fraction }: Decimal, { digit, inFraction }: Place, width: number): number {
  return Number((inFraction ? fraction[digit] : whole.padStart(width, "0")[digit]) ?? "0");
}

/** One to so many digits. */
function moreDigits(net: Network, most: number): Rule {
  return net.shared(`1 to ${most} digits`, (from, to) => {
    let at = from;
    for (let count = 1; count <= most; count++) {
      const next = net.state();
      net.range(at, 0x30, 0x39, next);
      net.jump(next, to);
      at = next;
    }
  });
}

/**
 * The range that a schema's bounds leave; `EVERYTHING` itself where it has none.
 * @throws PrefixdError constraint_invalid, constraint_unsupported
 */
export function boundsOf(schema: Readonly<Record<string, unknown>>, pointer: string): Range {
  let range = EVERYTHING;
  for (const name of BOUNDS) {
    const value = schema[name];
    if (value === undefined) continue;
    if (typeof value !== "number") failInvalid(`${pointer}/${name}`, "must be a number");
    if (Math.abs(value) < 10 ** MAX_DIGITS && digitsOf(value) > MAX_DIGITS)
      failUnsupported(`${pointer}/${name}`, `must have at most ${MAX_DIGITS} digits`);
    const open = name.startsWith("exclusive");
    if (name.endsWith("inimum") && (value > range.least || (value === range.least && open)))
      range = { ...range, least: value, leastOpen: open };
    else if (name.endsWith("aximum") && (value < range.most || (value === range.most && open)))
      range = { ...range, most: value, mostOpen: open };
  }
  const { least, most, leastOpen, mostOpen } = range;
  if (least > most || (least === most && (leastOpen || mostOpen)))
    failInvalid(pointer, `the bounds ${least} and ${most} leave no number`);
  return range;
}
