import { LRUCache } from "lru-cache";
import { PrefixdError } from "../errors.ts";
import { kvElements } from "../kv.ts";
import type { KvTensor, ModelShape } from "../kv.ts";
import { ByteBudget } from "./byte-budget.ts";
import { kvFromBytes, prefixDigest } from "./digest.ts";
import { keyText } from "./name.ts";
import type { PrefixKey, PrefixMeta, PrefixStore } from "./store.ts";

export interface PrefixCacheOptions {
  readonly store: PrefixStore;
  readonly shape: ModelShape;
  /** Maximum bytes of tensors, including those being loaded. */
  readonly maxBytes: number;
  /**
   * Milliseconds for which the store's answer on a name is trusted: the longest that a replaced or removed prefix can
   * be served if its change message is lost. 0: ask every time (right for LMDB). Default 1000.
   */
  readonly verifyMs?: number;
  /** The same while the store is unreachable; then 503. Default 10,000. */
  readonly staleMs?: number;
  /** A monotonic clock, in milliseconds. */
  readonly now?: () => number;
}

export interface PrefixCacheStats {
  readonly hits: number;
  readonly misses: number;
  /** Bytes of tensors in the cache. */
  readonly bytes: number;
  /** Bytes reserved for running loads. */
  readonly loadingBytes: number;
  readonly entries: number;
  readonly evictions: number;
  /** Requests served from cached answers while the store was away. */
  readonly stale: number;
}

export interface PrefixCache {
  /**
   * The prefix as the store has it now, or had it within the bounds above. `accept` gets the metadata before any tensor
   * is loaded, and throws to refuse. Throws `prefix_not_found`, `store_unavailable`, `prefix_damaged`.
   */
  resolve(key: PrefixKey, accept: (meta: PrefixMeta) => void): Promise<{ meta: PrefixMeta; kv: KvTensor }>;
  /** Call after every change of a prefix by this process; the store reports others' changes. */
  invalidate(key: PrefixKey): void;
  /** The prefix is gone for good: drops its tensors too, even if another name has the same. */
  evict(key: PrefixKey): void;
  /** Forgets all of a user's names, and drops every tensor served under one of them. */
  invalidateUser(user: string): void;
  /** Forgets everything, because nothing of it can be trusted any more. */
  clear(): void;
  /** True if the cache holds, or is loading, anything of the user. */
  holds(user: string): boolean;
  stats(): PrefixCacheStats;
  close(): void;
}

interface Verified {
  readonly meta: PrefixMeta;
  /** When the store was asked, not when it answered. */
  readonly at: number;
}

interface Held {
  readonly kv: KvTensor;
  /** Names it has been served under, including those of replaced versions. */
  readonly names: Set<string>;
}

interface Answer {
  readonly meta: PrefixMeta;
  /** The store's error, if the store is away and this is the last known answer. */
  readonly away?: PrefixdError;
}

/** Maximum known names; each takes about a kilobyte. */
const MAX_NAMES = 20_000;
/** Attempts when a prefix keeps being replaced while it is loaded. */
const MAX_TURNS = 8;

export function createPrefixCache(options: PrefixCacheOptions): PrefixCache {
  return new HostCache(options);
}

/** Maps names to digests and digests to tensors: a tensor is never looked up by name, so it cannot be the wrong one. */
class HostCache implements PrefixCache {
  readonly #store: PrefixStore;
  readonly #shape: ModelShape;
  readonly #verifyMs: number;
  readonly #staleMs: number;
  readonly #now: () => number;
  readonly #names = new LRUCache<string, Verified>({ max: MAX_NAMES });
  readonly #tensors: LRUCache<string, Held>;
  readonly #budget: ByteBudget;
  readonly #asking = new Map<string, Promise<Verified | null>>();
  readonly #loading = new Map<string, Promise<KvTensor | null>>();
  readonly #unsubscribe: () => void;
  /** Incremented when tensors are dropped for good: a load that began before must not bring them back. */
  #epoch = 0;
  #hits = 0;
  #misses = 0;
  #evictions = 0;
  #stale = 0;
  /** The last query's error if the store was unreachable, and when that was found out. */
  #away: PrefixdError | undefined;
  #awayAt = 0;

  constructor(options: PrefixCacheOptions) {
    this.#store = options.store;
    this.#shape = options.shape;
    this.#verifyMs = options.verifyMs ?? 1000;
    this.#staleMs = Math.max(this.#verifyMs, options.staleMs ?? 10_000);
    this.#now = options.now ?? (() => performance.now());
    const tensors = new LRUCache<string, Held>({
      maxSize: Math.max(1, options.maxBytes),
      sizeCalculation: ({ kv }) => kv.data.buffer.byteLength,
    });
    this.#tensors = tensors;
    this.#budget = new ByteBudget(options.maxBytes, {
      held: () => tensors.calculatedSize,
      evict: () => {
        if (tensors.pop() !== undefined) this.#evictions++;
      },
    });
    this.#unsubscribe = options.store.onChange((key) => this.invalidate(key));
  }

  async resolve(key: PrefixKey, accept: (meta: PrefixMeta) => void): Promise<{ meta: PrefixMeta; kv: KvTensor }> {
    for (let turn = 0; turn < MAX_TURNS; turn++) {
      const { meta, away } = await this.#verify(key);
      accept(meta);
      const held = this.#tensors.get(meta.digest);
      if (held !== undefined) {
        this.#hits++;
        held.names.add(keyText(key));
        return { meta, kv: held.kv };
      }
      // A load that cannot succeed must not evict others.
      if (away !== undefined) throw away;
      const kv = await this.#load(key, meta);
      if (kv !== null) return { meta, kv };
      this.invalidate(key);
    }
    throw new PrefixdError("store_unavailable", "The prefix is being replaced all the time.", { retryAfter: 1 });
  }

  invalidate(key: PrefixKey): void {
    const name = keyText(key);
    this.#names.delete(name);
    // A pending answer may predate the change, so later requests must not share it.
    this.#asking.delete(name);
  }

  evict(key: PrefixKey): void {
    const evicted = keyText(key);
    this.#forget((name) => name === evicted);
  }

  invalidateUser(user: string): void {
    this.#forget(isOf(user));
  }

  clear(): void {
    this.#forget(() => true);
  }

  holds(user: string): boolean {
    const mine = isOf(user);
    const flights = [...this.#loading.keys()].map((flight) => flight.split(" ")[0] as string);
    const names = [
      ...this.#names.keys(),
      ...this.#asking.keys(),
      ...flights,
      ...[...this.#tensors.values()].flatMap((held) => [...held.names]),
    ];
    return names.some(mine);
  }

  stats(): PrefixCacheStats {
    return {
      hits: this.#hits,
      misses: this.#misses,
      bytes: this.#tensors.calculatedSize,
      loadingBytes: this.#budget.reserved,
      entries: this.#tensors.size,
      evictions: this.#evictions,
      stale: this.#stale,
    };
  }

  close(): void {
    this.#unsubscribe();
    this.#names.clear();
    this.#tensors.clear();
  }

  #forget(mine: (name: string) => boolean): void {
    this.#epoch++;
    for (const name of [...this.#names.keys()]) if (mine(name)) this.#names.delete(name);
    for (const name of [...this.#asking.keys()]) if (mine(name)) this.#asking.delete(name);
    for (const [digest, { names }] of [...this.#tensors.entries()])
      if ([...names].some(mine)) this.#tensors.delete(digest);
    for (const flight of [...this.#loading.keys()])
      if (mine(flight.split(" ")[0] as string)) this.#loading.delete(flight);
  }

  async #verify(key: PrefixKey): Promise<Answer> {
    const name = keyText(key);
    const known = this.#names.get(name);
    const now = this.#now();
    if (known !== undefined && now - known.at < this.#verifyMs) return known;
    // Do not make every request wait for a hanging store.
    if (
      this.#away !== undefined &&
      now - this.#awayAt < this.#verifyMs &&
      known !== undefined &&
      now - known.at < this.#staleMs
    )
      return this.#staleOr(this.#away, known);
    let verified: Verified | null;
    try {
      verified = await (this.#asking.get(name) ?? this.#ask(name, key));
      this.#away = undefined;
    } catch (error) {
      if (!(error instanceof PrefixdError) || error.code !== "store_unavailable") throw error;
      this.#away = error;
      this.#awayAt = this.#now();
      // Look up again: a change may have been reported meanwhile.
      return this.#staleOr(error, this.#names.get(name));
    }
    if (verified === null) throw new PrefixdError("prefix_not_found", "There is no prefix of this name.");
    return verified;
  }

  #staleOr(away: PrefixdError, known: Verified | undefined): Answer {
    if (known === undefined || this.#now() - known.at >= this.#staleMs) throw away;
    this.#stale++;
    return { meta: known.meta, away };
  }

  #ask(name: string, key: PrefixKey): Promise<Verified | null> {
    const at = this.#now();
    const asked = this.#store.head(key).then((meta) => (meta === null ? null : { meta, at }));
    this.#asking.set(name, asked);
    // Keep only the current query's answer; an invalidated one serves only those who asked it.
    const settle = (verified: Verified | null | undefined): void => {
      if (this.#asking.get(name) !== asked) return;
      this.#asking.delete(name);
      if (verified === null) this.#names.delete(name);
      else if (verified !== undefined) this.#names.set(name, verified);
    };
    asked.then(settle, () => settle(undefined));
    return asked;
  }

  /** null if the store no longer has this version. */
  #load(key: PrefixKey, meta: PrefixMeta): Promise<KvTensor | null> {
    // Per name too: another user's copy of the same tensors can vanish while it is read.
    const flight = `${keyText(key)} ${meta.digest}`;
    const running = this.#loading.get(flight);
    if (running !== undefined) {
      this.#hits++;
      return running;
    }
    this.#misses++;
    const load = this.#fetch(key, meta).finally(() => {
      if (this.#loading.get(flight) === load) this.#loading.delete(flight);
    });
    this.#loading.set(flight, load);
    return load;
  }

  async #fetch(key: PrefixKey, meta: PrefixMeta): Promise<KvTensor | null> {
    const expected = kvElements(this.#shape, meta.length) * 4;
    const epoch = this.#epoch;
    using reservation = await this.#budget.reserve(expected);
    // Another load finished while this one waited for room.
    const held = this.#tensors.get(meta.digest);
    if (held !== undefined) {
      held.names.add(keyText(key));
      return held.kv;
    }
    const bytes = await this.#store.loadKv(key, meta.digest);
    if (bytes === null) return null;
    if (bytes.length !== expected || (await prefixDigest(this.#shape, meta.length, bytes)) !== meta.digest) {
      throw new PrefixdError(
        "prefix_damaged",
        "What the store holds of this prefix is not what was uploaded; upload it again.",
      );
    }
    const kv = kvFromBytes(meta.length, bytes);
    reservation[Symbol.dispose]();
    if (reservation.fits && epoch === this.#epoch)
      this.#tensors.set(meta.digest, { kv, names: new Set([keyText(key)]) });
    return kv;
  }
}

function isOf(user: string): (name: string) => boolean {
  const start = keyText({ user, name: "" });
  return (name) => name.startsWith(start);
}
