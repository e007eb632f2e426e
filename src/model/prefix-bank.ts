/** Hot prefixes in a device's memory: uploaded once, from there copied into rows by the device itself. */
import { kvElements, type KvTensor, type ModelShape } from "../kv.ts";
import type { DeviceTensor, Runtime, Session } from "../runtime/session.ts";

export interface PrefixBankStats {
  /** Prefixes held. */
  readonly entries: number;
  readonly bytes: number;
  readonly capacityBytes: number;
  readonly hits: number;
  /** Prefixes that had to be uploaded. */
  readonly misses: number;
  readonly evictions: number;
}

/** Pages whose zeros are uploaded together. */
const CLEARED_AT_ONCE = 64;

/**
 * A fixed amount of memory in pages of one virtual token each: all its keys and values, `2 * layers * heads` vectors of `headDim`
 * numbers. A prefix takes any free pages, so nothing is ever moved to make room; the least recently used ones make way. Page 0 is
 * zeros.
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
  /** The pages of each prefix held, in order of use, the latest last. */
  readonly #held = new Set<Int32Array>();
  /** Of a prefix that nobody else knows any more only the pages stay, until their turn comes to make way. */
  readonly #pagesOf = new WeakMap<KvTensor, Int32Array>();
  readonly #free: number[];
  /** Free pages that still hold what was in them. */
  readonly #dirty: Set<number>;
  #hits = 0;
  #misses = 0;
  #evictions = 0;

  /**
   * @param tensor of `pages * 2 * layers * heads` vectors, `pages` at least `positions + 1`, so that any prefix fits
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
    // Taken from the end: low pages first.
    this.#free = Array.from({ length: this.#pages - 1 }, (_, index) => this.#pages - 1 - index);
    this.#write(new Float32Array(kvElements(shape, 1)), Int32Array.of(0));
    // A device's memory begins with whatever was in it.
    this.#dirty = new Set(this.#free);
    this.clear();
  }

  /** The prefix's pages, one per virtual token, after bringing it in if need be. */
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

  /** Lets go of all prefixes and overwrites with zeros what they and those before them have left. */
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

  /** Puts keys and values `[2 * layers, heads, pages.length, headDim]` into pages. */
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
