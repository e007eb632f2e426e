/** Hot prefixes in device memory, each contiguous and in the cache's order: `[tensors, length, heads, headDim]`. */
import type { KvTensor } from "../../kv.ts";
import type { PrefixBankStats } from "../prefix-bank.ts";

/** Tokens `[first, first + length)` of the bank. */
interface Place {
  readonly first: number;
  readonly length: number;
}

/**
 * Allocates places for prefixes; the caller writes their content. First fit: a prefix takes the first gap that is large
 * enough. If there is none, the least recently used prefixes are evicted one by one until there is.
 */
export class PagedBank {
  readonly #tokens: number;
  readonly #bytesPerToken: number;
  /** Least recently used first. */
  readonly #held = new Set<Place>();
  /** Weak: a prefix no longer referenced elsewhere leaves only its place in `#held`, until it is evicted. */
  readonly #placeOf = new WeakMap<KvTensor, Place>();
  #hits = 0;
  #misses = 0;
  #evictions = 0;

  /** @param tokens capacity, at least the longest prefix */
  constructor(tokens: number, bytesPerToken: number) {
    this.#tokens = tokens;
    this.#bytesPerToken = bytesPerToken;
  }

  /** The prefix's first token in the bank; on a miss, makes room and calls `write`. */
  hold(prefix: KvTensor, write: (first: number) => void): number {
    const known = this.#placeOf.get(prefix);
    if (known !== undefined && this.#held.delete(known)) {
      this.#hits++;
      this.#held.add(known);
      return known.first;
    }
    this.#misses++;
    const place = { first: this.#makeRoom(prefix.length), length: prefix.length };
    write(place.first);
    this.#held.add(place);
    this.#placeOf.set(prefix, place);
    return place.first;
  }

  /** Drops all prefixes. */
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
    for (const place of [...this.#held].sort((a, b) => a.first - b.first)) {
      if (place.first - end >= length) return end;
      end = place.first + place.length;
    }
    return this.#tokens - end >= length ? end : null;
  }
}
