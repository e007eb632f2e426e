import { hasToken, type TokenSet } from "./token-tree.ts";

/** At most so many tokens are kept as a list, of which a caller reads the single logits. */
export const LISTED = 2048;

/** The tokens that may come next, EOS aside. */
export class TokenMask {
  /** In ascending order; null: more than `LISTED`. */
  readonly ids: Int32Array | null;
  readonly count: number;
  /** Deterministic work of making it, which its use is charged with, whoever made it. */
  readonly work: number;
  /** Bytes that it takes for itself. */
  readonly bytes: number;
  readonly #bits: Uint32Array | null;

  /**
   * @param found ids that are not in `shared`
   * @param shared a set that other masks have in common
   */
  constructor(vocabSize: number, found: readonly number[], shared: TokenSet | null, work: number) {
    this.work = work;
    this.count = found.length + (shared?.count ?? 0);
    if (shared !== null && found.length === 0 && this.count > LISTED) {
      this.#bits = shared.bits;
      this.ids = null;
      this.bytes = 0;
      return;
    }
    const bits = shared === null ? new Uint32Array((vocabSize + 31) >> 5) : shared.bits.slice();
    for (const id of found) bits[id >> 5]! |= 1 << (id & 31);
    this.ids = this.count <= LISTED ? idsOf(bits, this.count) : null;
    this.#bits = this.ids === null ? bits : null;
    this.bytes = 4 * (this.ids?.length ?? bits.length);
  }

  has(id: number): boolean {
    if (this.#bits !== null) return hasToken(this.#bits, id);
    const ids = this.ids!;
    let [from, to] = [0, ids.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (ids[middle]! < id) from = middle + 1;
      else to = middle;
    }
    return ids[from] === id;
  }
}

function idsOf(bits: Uint32Array, count: number): Int32Array {
  const ids = new Int32Array(count);
  let at = 0;
  for (const [index, word] of bits.entries())
    for (let rest = word; rest !== 0; rest &= rest - 1) ids[at++] = index * 32 + 31 - Math.clz32(rest & -rest);
  return ids;
}
