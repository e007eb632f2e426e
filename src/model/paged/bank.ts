/** Hot prefixes in a device's memory, each in one piece as the cache has its tokens: `[tensors, length, heads, headDim]`. */
import type { KvTensor } from "../../kv.ts";
import type { PrefixBankStats } from "../prefix-bank.ts";

/** Tokens `[first, first + length)` of the bank. */
interface Piece {
  readonly first: number;
  readonly length: number;
}

/**
 * Says where prefixes are; what is there is the caller's to write. The first gap that is large enough takes a prefix; if there is none the
 * least recently used make way, one after the other, until there is.
 */
export class PagedBank {
  readonly #tokens: number;
  readonly #bytesPerToken: number;
  /** In order of use, the latest last. */
  readonly #held = new Set<Piece>();
  /** Of a prefix that nobody else knows any more only the piece stays, until its turn comes to make way. */
  readonly #pieceOf = new WeakMap<KvTensor, Piece>();
  #hits = 0;
  #misses = 0;
  #evictions = 0;

  /** @param tokens at least as many as the longest prefix has */
  constructor(tokens: number, bytesPerToken: number) {
    this.#tokens = tokens;
    this.#bytesPerToken = bytesPerToken;
  }

  /** The first token of the prefix's place; `write` brings it there if it is not there yet. */
  hold(prefix: KvTensor, write: (first: number) => void): number {
    const known = this.#pieceOf.get(prefix);
    if (known !== undefined && this.#held.delete(known)) {
      this.#hits++;
      this.#held.add(known);
      return known.first;
    }
    this.#misses++;
    const piece = { first: this.#makeRoom(prefix.length), length: prefix.length };
    write(piece.first);
    this.#held.add(piece);
    this.#pieceOf.set(prefix, piece);
    return piece.first;
  }

  /** Lets go of all prefixes. */
  clear(): void {
    this.#held.clear();
  }

  stats(): PrefixBankStats {
    let tokens = 0;
    for (const { length } of this.#held) tokens += length;
    return {
      entries: this.#held.size,
      bytes: tokens * this.#bytesPerToken,
      capacityBytes: this.#tokens * this.#bytesPerToken,
      hits: this.#hits,
      misses: this.#misses,
      evictions: this.#evictions,
    };
  }

  #makeRoom(length: number): number {
    for (;;) {
      const gap = this.#gap(length);
      if (gap !== null) return gap;
      const [oldest] = this.#held;
      if (oldest === undefined)
        throw new RangeError(`a prefix of ${length} tokens does not fit into a bank of ${this.#tokens}`);
      this.#held.delete(oldest);
      this.#evictions++;
    }
  }

  #gap(length: number): number | null {
    let end = 0;
    for (const piece of [...this.#held].sort((a, b) => a.first - b.first)) {
      if (piece.first - end >= length) return end;
      end = piece.first + piece.length;
    }
    return this.#tokens - end >= length ? end : null;
  }
}
