/** A vocabulary laid out for walks along an automaton: all tokens with a common beginning at once. */
import { plainCharacters } from "./json-string.ts";

/** Tokens as a tree of bytes, its nodes in the order of a depth-first walk. */
export interface Branches {
  /** The byte that leads to a node. */
  readonly byte: Uint8Array;
  /** Bytes before that one. */
  readonly depth: Uint16Array;
  /** The token that ends at a node; -1: none. */
  readonly token: Int32Array;
  /** The next node that is not below this one. */
  readonly skip: Int32Array;
}

/** Ids of a vocabulary as bits, and how many they are. */
export interface TokenSet {
  readonly bits: Uint32Array;
  readonly count: number;
}

const has = (bits: Uint32Array, id: number): boolean => ((bits[id >> 5]! >>> (id & 31)) & 1) === 1;

export class TokenTree {
  readonly vocabSize: number;
  /** Bytes that each token adds to a text; empty for one that never comes. */
  readonly bytes: readonly Uint8Array[];
  /**
   * By byte: 1 if some token is this byte and nothing else. Tokens with other bytes never come: what they begin might
   * never be finished.
   */
  readonly writable: Uint8Array;
  readonly all: Branches;
  /** Tokens that may not stand anywhere inside a JSON string: with quotes, escapes or parts of characters. */
  readonly special: Branches;
  readonly longest: number;
  /** Other tokens of the same bytes, by the one that is in the tree. */
  readonly twins: ReadonlyMap<number, readonly number[]>;
  /** Tokens of plain characters, by their number of these. */
  readonly #plain: number[][] = [];
  readonly #plainUpTo: TokenSet[] = [];

  /** @param bytes by id; empty: never comes */
  constructor(bytes: readonly Uint8Array[]) {
    this.vocabSize = bytes.length;
    this.bytes = bytes;
    this.writable = new Uint8Array(256);
    for (const token of bytes) if (token.length === 1) this.writable[token[0]!] = 1;
    const usable = bytes.map((token) => token.length > 0 && token.every((byte) => this.writable[byte] === 1));
    // As texts of one character per byte they sort in the order of their bytes, and much faster than as arrays.
    const names = bytes.map((token) => Buffer.from(token).toString("latin1"));
    const sorted = [...bytes.keys()]
      .filter((id) => usable[id])
      .sort((a, b) => (names[a]! < names[b]! ? -1 : names[a]! > names[b]! ? 1 : a - b));
    const { first, twins } = withoutTwins(sorted, names);
    this.twins = twins;
    this.longest = sorted.reduce((longest, id) => Math.max(longest, bytes[id]!.length), 0);
    const special: number[] = [];
    for (const id of first) {
      const characters = plainCharacters(bytes[id]!);
      if (characters === 0) special.push(id);
      else (this.#plain[characters] ??= []).push(id, ...(twins.get(id) ?? []));
    }
    this.all = layOut(first, bytes);
    this.special = layOut(special, bytes);
  }

  /** Most characters of a token of plain characters. */
  get longestPlain(): number {
    return this.#plain.length - 1;
  }

  /** Tokens of at most so many plain characters of a JSON string. Made once. */
  plainUpTo(characters: number): TokenSet {
    const most = Math.max(0, Math.min(characters, this.longestPlain));
    for (let n = this.#plainUpTo.length; n <= most; n++) {
      const before = this.#plainUpTo[n - 1];
      const more = this.#plain[n] ?? [];
      if (before !== undefined && more.length === 0) {
        this.#plainUpTo.push(before);
        continue;
      }
      const bits = before === undefined ? new Uint32Array((this.vocabSize + 31) >> 5) : before.bits.slice();
      for (const id of more) bits[id >> 5]! |= 1 << (id & 31);
      this.#plainUpTo.push({ bits, count: (before?.count ?? 0) + more.length });
    }
    return this.#plainUpTo[most]!;
  }
}

function withoutTwins(
  sorted: readonly number[],
  names: readonly string[],
): { first: number[]; twins: Map<number, number[]> } {
  const first: number[] = [];
  const twins = new Map<number, number[]>();
  for (const id of sorted) {
    const before = first.at(-1);
    if (before === undefined || names[before] !== names[id]) first.push(id);
    else twins.set(before, [...(twins.get(before) ?? []), id]);
  }
  return { first, twins };
}

/** @param sorted ids of different tokens in the order of their bytes */
function layOut(sorted: readonly number[], bytes: readonly Uint8Array[]): Branches {
  const byte: number[] = [];
  const depth: number[] = [];
  const token: number[] = [];
  const skip: number[] = [];
  /** Nodes on the way to the last token. */
  const open: number[] = [];
  let before: Uint8Array = new Uint8Array(0);
  for (const id of sorted) {
    const now = bytes[id]!;
    let same = 0;
    while (same < before.length && now[same] === before[same]) same++;
    while (open.length > same) skip[open.pop()!] = byte.length;
    for (let at = same; at < now.length; at++) {
      open.push(byte.length);
      depth.push(at);
      token.push(at === now.length - 1 ? id : -1);
      byte.push(now[at]!);
    }
    before = now;
  }
  while (open.length > 0) skip[open.pop()!] = byte.length;
  return {
    byte: Uint8Array.from(byte),
    depth: Uint16Array.from(depth),
    token: Int32Array.from(token),
    skip: Int32Array.from(skip),
  };
}

export { has as hasToken };
