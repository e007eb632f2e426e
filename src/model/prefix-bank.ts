/** Hot prefixes in device memory: uploaded once, then copied into rows on the device. */
import { kvElements, type KvTensor, type ModelShape } from "../kv.ts";
import type { DeviceTensor, Runtime, Session } from "../runtime/session.ts";

export interface PrefixBankStats {
  /** Prefixes in the bank. */
  readonly entries: number;
  readonly bytes: number;
  readonly capacityBytes: number;
  readonly hits: number;
  /** Prefixes that had to be uploaded. */
  readonly misses: number;
  readonly evictions: number;
}

/** Pages zeroed per upload. */
const CLEARED_AT_ONCE = 64;

/**
 * A fixed amount of memory in pages of one virtual token: all its keys and values, `2 * layers * heads` vectors of
 * `headDim` numbers. A prefix takes any free pages, so nothing is moved to make room; the least recently used prefixes
 * are evicted. Page 0 stays zero.
 */
export class PrefixBank {
  /** `[pages * vectorsPerPage, headDim]` */
  readonly tensor: DeviceTensor;
  readonly vectorsPerPage: number;
  readonly #runtime: Runtime;
  readonly #store: Session;
  readonly #shape: ModelShape;
  readonly #pageBytes: number;
  readonly #pages: number;
  /** Pages of each prefix in the bank, least recently used first. */
  readonly #held = new Set<Int32Array>();
  /** Weak: a prefix no longer referenced elsewhere leaves only its pages in `#held`, until they are evicted. */
  readonly #pagesOf = new WeakMap<KvTensor, Int32Array>();
  readonly #free: number[];
  /** Free pages that have not been zeroed since their last use. */
  readonly #dirty: Set<number>;
  #hits = 0;
  #misses = 0;
  #evictions = 0;

  /**
   * @param tensor `pages * 2 * layers * heads` vectors, with `pages` >= `positions + 1`, so that any prefix fits
   * @param store a session of `storeGraph`
   */
  constructor(runtime: Runtime, shape: ModelShape, tensor: DeviceTensor, store: Session) {
    this.#runtime = runtime;
    this.#shape = shape;
    this.tensor = tensor;
    this.vectorsPerPage = 2 * shape.layers * shape.heads;
    this.#store = store;
    this.#pages = tensor.shape[0]! / this.vectorsPerPage;
    this.#pageBytes = tensor.byteLength / this.#pages;
    // Taken from the end, so low pages come first.
    this.#free = Array.from({ length: this.#pages - 1 }, (_, index) => this.#pages - 1 - index);
    this.#write(new Float32Array(kvElements(shape, 1)), Int32Array.of(0));
    // Fresh device memory holds whatever was there before.
    this.#dirty = new Set(this.#free);
    this.clear();
  }

  /** The prefix's pages, one per virtual token; uploads the prefix on a miss. */
  hold(prefix: KvTensor): Int32Array {
    const known = this.#pagesOf.get(prefix);
    if (known !== undefined && this.#held.delete(known)) {
      this.#hits++;
      this.#held.add(known);
      return known;
    }
    this.#misses++;
    for (const oldest of this.#held) {
      if (this.#free.length >= prefix.length) break;
      this.#release(oldest);
      this.#evictions++;
    }
    const pages = Int32Array.from({ length: prefix.length }, () => this.#free.pop()!);
    try {
      this.#write(prefix.data, pages);
    } catch (error) {
      this.#free.push(...pages);
      throw error;
    }
    for (const page of pages) this.#dirty.delete(page);
    this.#held.add(pages);
    this.#pagesOf.set(prefix, pages);
    return pages;
  }

  /** Drops all prefixes and zeroes every page used since the last call. */
  clear(): void {
    for (const pages of [...this.#held]) this.#release(pages);
    const dirty = [...this.#dirty];
    const zeros = new Float32Array(kvElements(this.#shape, Math.min(dirty.length, CLEARED_AT_ONCE)));
    for (let from = 0; from < dirty.length; from += CLEARED_AT_ONCE) {
      const pages = Int32Array.from(dirty.slice(from, from + CLEARED_AT_ONCE));
      this.#write(zeros.subarray(0, kvElements(this.#shape, pages.length)), pages);
    }
    this.#dirty.clear();
  }

  stats(): PrefixBankStats {
    const used = this.#pages - 1 - this.#free.length;
    return {
      entries: this.#held.size,
      bytes: used * this.#pageBytes,
      capacityBytes: this.#pages * this.#pageBytes,
      hits: this.#hits,
      misses: this.#misses,
      evictions: this.#evictions,
    };
  }

  #release(pages: Int32Array): void {
    this.#held.delete(pages);
    this.#free.push(...pages);
    for (const page of pages) this.#dirty.add(page);
  }

  /** Writes keys and values `[2 * layers, heads, pages.length, headDim]` to pages. */
  #write(data: Float32Array, pages: Int32Array): void {
    const { headDim } = this.#shape;
    const count = this.vectorsPerPage * pages.length;
    const at = new BigInt64Array(count);
    for (let vector = 0; vector < this.vectorsPerPage; vector++) {
      for (let token = 0; token < pages.length; token++) {
        at[vector * pages.length + token] = BigInt(pages[token]! * this.vectorsPerPage + vector);
      }
    }
    using vectors = this.#runtime.tensor(data, [count, headDim]);
    using toAt = this.#runtime.tensor(at, [count, 1]);
    using binding = this.#store.binding({ vectors, to_at: toAt, bank: this.tensor }, { stored: this.tensor });
    this.#store.runNow(binding);
  }
}
