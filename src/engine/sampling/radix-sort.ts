const BINS = 2048;
const counts = new Int32Array(BINS);

/** Memory for sorting. Sorting is synchronous, so it is shared. */
let room = 0;
let keysOf = new Uint32Array(0);
let keysTo = new Uint32Array(0);
let idsTo: Int32Array = new Int32Array(0);

/**
 * Sorts `scores` [n], and `ids` [n] with them, by descending score, in place; stable, so that equal scores of ascending
 * ids stay so. Radix sort: linear whatever the scores are. No NaN; -0 becomes 0, as it counts in comparisons.
 */
export function sortDescending(scores: Float32Array, ids: Int32Array): void {
  const n = scores.length;
  if (n > room) {
    room = n;
    [keysOf, keysTo, idsTo] = [new Uint32Array(n), new Uint32Array(n), new Int32Array(n)];
  }
  for (let i = 0; i < n; i++) scores[i] = scores[i]! + 0;
  const bits = new Uint32Array(scores.buffer, scores.byteOffset, n);
  for (let i = 0; i < n; i++) keysOf[i] = orderKey(bits[i]!);
  let [keys, otherKeys, from, to] = [keysOf, keysTo, ids, idsTo];
  // Three passes of 11, 11 and 10 bits.
  for (let shift = 0; shift < 32; shift += 11) {
    counts.fill(0);
    for (let i = 0; i < n; i++) counts[(keys[i]! >>> shift) & (BINS - 1)]!++;
    for (let bin = 0, start = 0; bin < BINS; bin++) {
      const count = counts[bin]!;
      counts[bin] = start;
      start += count;
    }
    for (let i = 0; i < n; i++) {
      const at = counts[(keys[i]! >>> shift) & (BINS - 1)]!++;
      otherKeys[at] = keys[i]!;
      to[at] = from[i]!;
    }
    [keys, otherKeys, from, to] = [otherKeys, keys, to, from];
  }
  // After an odd number of passes the result lies in the other array.
  ids.set(from.subarray(0, n));
  for (let i = 0; i < n; i++) bits[i] = orderKey(keys[i]!);
}

/** Unsigned 32-bit key of an fp32's bits that ascends as the number descends; its own inverse. */
export function orderKey(bits: number): number {
  return (bits & 0x80000000 ? bits : ~bits & 0x7fffffff) >>> 0;
}
