import { LRUCache } from "lru-cache";
import { PrefixdError } from "../errors.ts";
import { kvElements } from "../kv.ts";
import type { KvTensor, ModelShape } from "../kv.ts";
import { VerifiedCache } from "../replicas/verified-cache.ts";
import { ByteBudget } from "./byte-budget.ts";
import { kvFromBytes, prefixDigest } from "./digest.ts";
import { keyText, prefixNotFound } from "./name.ts";
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
   * The prefix as stored now, or no older than `verifyMs` (`staleMs` while the store is unreachable). `accept` gets the
   * metadata before any tensor is loaded, and throws to refuse. Throws `prefix_not_found`, `store_unavailable`,
   * `prefix_damaged`.
   */
  resolve(key: PrefixKey, accept: (meta: PrefixMeta) => void): Promise<{ meta: PrefixMeta; kv: KvTensor }>;
  /** Call after every change of a prefix by this process; the store reports others' changes. */
  invalidate(key: PrefixKey): void;
  /** Call when the prefix was removed: drops its tensors too, even if another name uses the same ones. */
  evict(key: PrefixKey): void;
  /** Forgets all of a user's names, and drops every tensor served under one of them. */
  invalidateUser(user: string): void;
  /** Forgets everything; for when nothing cached can be trusted any more. */
  clear(): void;
  /** True if the cache holds or is loading any data of the user. */
  holds(user: string): boolean;
  /** True if these tensors are in memory, and have been served under this name. */
  holdsPrefix(key: PrefixKey, digest: string): boolean;
  stats(): PrefixCacheStats;
  close(): void;
}

interface Held {
  readonly kv: KvTensor;
  /** Every key these tensors have been served under, by the key's text, including keys since replaced. */
  readonly keys: Map<string, PrefixKey>;
}

interface Load {
  readonly key: PrefixKey;
  readonly kv: Promise<KvTensor | null>;
}

/** Maximum known names; each takes about a kilobyte. */
const MAX_NAMES = 20_000;
/** Attempts when a prefix keeps being replaced while it is loaded. */
const MAX_TURNS = 8;

export function createPrefixCache(options: PrefixCacheOptions): PrefixCache {
  return new HostCache(options);
}

/** Maps keys to digests, and digests to tensors. Tensors are never looked up by name, so they cannot be mixed up. */
class HostCache implements PrefixCache {
  readonly #store: PrefixStore;
  readonly #shape: ModelShape;
  readonly #metas: VerifiedCache<PrefixKey, PrefixMeta>;
  readonly #tensors: LRUCache<string, Held>;
  readonly #budget: ByteBudget;
  readonly #loads = new Map<string, Load>();
  readonly #unsubscribe: () => void;
  /** Incremented when tensors are dropped for good: a load that began before must not bring them back. */
  #epoch = 0;
  #hits = 0;
  #misses = 0;
  #evictions = 0;
  #stale = 0;

  constructor({ store, shape, maxBytes, ...times }: PrefixCacheOptions) {
    this.#store = store;
    this.#shape = shape;
    this.#metas = new VerifiedCache({
      ask: (key) => store.head(key),
      textOf: keyText,
      ownerOf: ({ user }) => user,
      max: MAX_NAMES,
      ...times,
    });
    const tensors = new LRUCache<string, Held>({
      maxSize: Math.max(1, maxBytes),
      sizeCalculation: ({ kv }) => kv.data.buffer.byteLength,
    });
    this.#tensors = tensors;
    this.#budget = new ByteBudget(maxBytes, {
      held: () => tensors.calculatedSize,
      evict: () => {
        if (tensors.pop() !== undefined) this.#evictions++;
      },
    });
    this.#unsubscribe = store.onChange((key) => this.invalidate(key));
  }

  async resolve(key: PrefixKey, accept: (meta: PrefixMeta) => void): Promise<{ meta: PrefixMeta; kv: KvTensor }> {
    for (let turn = 0; turn < MAX_TURNS; turn++) {
      const { value: meta, away } = await this.#metas.get(key);
      if (meta === null) throw prefixNotFound();
      if (away !== undefined) this.#stale++;
      accept(meta);
      const held = this.#tensors.get(meta.digest);
      if (held !== undefined) {
        this.#hits++;
        held.keys.set(keyText(key), key);
        return { meta, kv: held.kv };
      }
      // A load that cannot succeed must not evict others.
      if (away !== undefined) throw away;
      const kv = await this.#load(key, meta);
      if (kv !== null) return { meta, kv };
      this.invalidate(key);
    }
    throw new PrefixdError("store_unavailable", "The prefix keeps being replaced; repeat the request.", {
      retryAfter: 1,
    });
  }

  invalidate(key: PrefixKey): void {
    this.#metas.forget(key);
  }

  evict(key: PrefixKey): void {
    this.#metas.forget(key);
    this.#letGo(({ user, name }) => user === key.user && name === key.name);
  }

  invalidateUser(user: string): void {
    this.#metas.forgetOwner(user);
    this.#letGo((key) => key.user === user);
  }

  clear(): void {
    this.#metas.clear();
    this.#letGo(() => true);
  }

  holds(user: string): boolean {
    const keys = [
      ...[...this.#loads.values()].map(({ key }) => key),
      ...[...this.#tensors.values()].flatMap((held) => [...held.keys.values()]),
    ];
    return this.#metas.knowsOf(user) || keys.some((key) => key.user === user);
  }

  holdsPrefix(key: PrefixKey, digest: string): boolean {
    // Not `get`, which would make it look used.
    return this.#tensors.peek(digest)?.keys.has(keyText(key)) ?? false;
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
    this.#metas.clear();
    this.#tensors.clear();
  }

  /** Drops all tensors that have been, or are being, served under one of these keys. */
  #letGo(isGone: (key: PrefixKey) => boolean): void {
    this.#epoch++;
    for (const [digest, { keys }] of [...this.#tensors.entries()])
      if ([...keys.values()].some(isGone)) this.#tensors.delete(digest);
    for (const [flight, { key }] of [...this.#loads]) if (isGone(key)) this.#loads.delete(flight);
  }

  /** null if the store no longer has this version. */
  #load(key: PrefixKey, meta: PrefixMeta): Promise<KvTensor | null> {
    // Share a load only under the same name: another user's copy of the same tensors can vanish while it is read.
    const flight = `${keyText(key)} ${meta.digest}`;
    const running = this.#loads.get(flight);
    if (running !== undefined) {
      this.#hits++;
      return running.kv;
    }
    this.#misses++;
    const load: Load = {
      key,
      kv: this.#fetch(key, meta).finally(() => {
        if (this.#loads.get(flight) === load) this.#loads.delete(flight);
      }),
    };
    this.#loads.set(flight, load);
    return load.kv;
  }

  async #fetch(key: PrefixKey, meta: PrefixMeta): Promise<KvTensor | null> {
    const expected = kvElements(this.#shape, meta.length) * 4;
    const epoch = this.#epoch;
    using reservation = await this.#budget.reserve(expected);
    // Another load finished while this one waited for room.
    const held = this.#tensors.get(meta.digest);
    if (held !== undefined) {
      held.keys.set(keyText(key), key);
      return held.kv;
    }
    const bytes = await this.#store.loadKv(key, meta.digest);
    if (bytes === null) return null;
    if (bytes.length !== expected || (await prefixDigest(this.#shape, meta.length, bytes)) !== meta.digest) {
      throw new PrefixdError("prefix_damaged", "The stored prefix is not what was uploaded; upload it again.");
    }
    const kv = kvFromBytes(meta.length, bytes);
    reservation[Symbol.dispose]();
    if (reservation.fits && epoch === this.#epoch)
      this.#tensors.set(meta.digest, { kv, keys: new Map([[keyText(key), key]]) });
    return kv;
  }
}
