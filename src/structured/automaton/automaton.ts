import type { Network, Rule } from "./network.ts";

/** Rows of numbers, one after another: row `i` is `items[at[i]]` to `items[at[i + 1]]`. */
export interface NumberRows {
  readonly at: Int32Array;
  readonly items: Int32Array;
}

/** A finished `Network`, to be run for one root rule. */
export interface Automaton {
  readonly size: number;
  readonly root: Rule;
  /** By byte: bytes of one class are read alike everywhere. Classes are numbered in the order of bytes. */
  readonly classOf: Uint8Array;
  readonly classes: number;
  /** `first class, last class, target` of each edge. */
  readonly edges: NumberRows;
  readonly jumps: NumberRows;
  /** `start of the rule, return state` of each call. */
  readonly calls: NumberRows;
  /** 1 for the end of a rule. */
  readonly isEnd: Uint8Array;
  /**
   * 1 for a state after which its rule has ended: a call that returns there need not return, but ends where its caller
   * ends.
   */
  readonly isTail: Uint8Array;
  /**
   * How many plain characters of a JSON string a state has room for, each by a call of the rule at `characterStart`;
   * -1: it reads none.
   */
  readonly room: Float64Array;
  readonly characterStart: number;
  /** Bytes that this takes. */
  readonly bytes: number;
}

export function finish(net: Network, root: Rule): Automaton {
  const size = net.edges.length;
  const { classOf, classes } = byteClasses(net);
  const edges = rowsOf(net.edges.map((row) => row.map((value, index) => (index % 3 === 2 ? value : classOf[value]!))));
  const jumps = rowsOf(net.jumps);
  const calls = rowsOf(net.calls.map((row) => row.map((value, i) => (i % 2 === 0 ? net.rules[value]!.start : value))));
  const isEnd = new Uint8Array(size);
  for (const { end } of net.rules) isEnd[end] = 1;
  const isTail = Uint8Array.from({ length: size }, (_, state) =>
    net.edges[state]!.length + net.calls[state]!.length > 0
      ? 0
      : isEnd[state]! | Number(net.jumps[state]!.length > 0 && net.jumps[state]!.every((to) => isEnd[to] === 1)),
  );
  const room = new Float64Array(size).fill(-1);
  for (const [state, characters] of net.room) room[state] = characters;
  const numbers = [edges, jumps, calls].reduce((sum, { at, items }) => sum + at.length + items.length, 0);
  return {
    size,
    root,
    classOf,
    classes,
    edges,
    jumps,
    calls,
    isEnd,
    isTail,
    room,
    characterStart: net.characterRule?.start ?? -1,
    bytes: 4 * numbers + 16 * size,
  };
}

function byteClasses(net: Network): { classOf: Uint8Array; classes: number } {
  const begins = new Uint8Array(257);
  for (const row of net.edges)
    for (let i = 0; i < row.length; i += 3) {
      begins[row[i]!] = 1;
      begins[row[i + 1]! + 1] = 1;
    }
  const classOf = new Uint8Array(256);
  let last = 0;
  for (let byte = 1; byte < 256; byte++) classOf[byte] = last += begins[byte]!;
  return { classOf, classes: last + 1 };
}

function rowsOf(rows: readonly (readonly number[])[]): NumberRows {
  const at = new Int32Array(rows.length + 1);
  for (const [index, row] of rows.entries()) at[index + 1] = at[index]! + row.length;
  const items = new Int32Array(at[rows.length]!);
  for (const [index, row] of rows.entries()) items.set(row, at[index]);
  return { at, items };
}
