import { randomUUID } from "node:crypto";
import { PrefixdError } from "../errors.ts";
import { ByteBudget } from "../prefixes/byte-budget.ts";
import type { RedisCommands } from "./connection.ts";
import type { RedisKeys } from "./prefix-keys.ts";
import { BEGIN_UPLOAD, WRITE_CHUNK } from "./prefix-scripts.ts";
import type { ByteRange, PrefixKey, PrefixRecord } from "../prefixes/store.ts";
import { userRemoved } from "../prefixes/tombstones.ts";

/** A part's place in the record: its first chunk and its size in bytes. */
export type Extent = readonly [first: number, bytes: number];

/** The layout of one version's bytes. */
export interface ChunkPlan {
  /** Unique to one PUT; part of the chunks' names. */
  readonly upload: string;
  readonly chunks: number;
  readonly chunkBytes: number;
  readonly kv: Extent;
  readonly files: Readonly<Record<string, Extent>>;
}

/** Concurrent chunk transfers per record. */
const IN_FLIGHT = 4;
/**
 * Concurrent bytes over all records. Commands queue behind them and must be answered within their time limit, so this
 * much must transfer in that time, or the store counts as away.
 */
const BYTES_IN_FLIGHT = 2 << 20;

export function splitRecord(record: PrefixRecord, chunkBytes: number): { plan: ChunkPlan; chunks: Uint8Array[] } {
  const chunks: Uint8Array[] = [];
  const add = (bytes: Uint8Array): Extent => {
    const first = chunks.length;
    for (let i = 0; i < chunkCount(bytes.length, chunkBytes); i++)
      chunks.push(bytes.subarray(i * chunkBytes, (i + 1) * chunkBytes));
    return [first, bytes.length];
  };
  const kv = add(record.kv);
  const files = Object.fromEntries([...record.files].map(([name, bytes]) => [name, add(bytes)]));
  return { plan: { upload: randomUUID(), chunks: chunks.length, chunkBytes, kv, files }, chunks };
}

/** Writes and reads the chunks of versions. Chunks that are never committed expire. */
export class RedisChunks {
  readonly #connection: RedisCommands;
  readonly #keys: RedisKeys;
  readonly #ttlMs: number;
  readonly #travelling = new ByteBudget(BYTES_IN_FLIGHT, { held: () => 0, evict: () => undefined });

  constructor(connection: RedisCommands, keys: RedisKeys, ttlMs: number) {
    this.#connection = connection;
    this.#keys = keys;
    this.#ttlMs = ttlMs;
  }

  async upload(key: PrefixKey, plan: ChunkPlan, chunks: readonly Uint8Array[]): Promise<void> {
    const { upload } = plan;
    const guards = [this.#keys.uploads(key.user), this.#keys.removed(key.user)];
    const begun = await this.#connection.run(BEGIN_UPLOAD, guards, [upload, chunks.length, key.name, this.#ttlMs]);
    if (begun !== 1) throw uploadError(begun);
    try {
      await inParallel(chunks.length, async (i) => {
        const { buffer, byteOffset, byteLength } = chunks[i]!;
        const args = [announcement(key, plan), Buffer.from(buffer, byteOffset, byteLength), this.#ttlMs];
        const written = await this.#travel(byteLength, () =>
          this.#connection.run(WRITE_CHUNK, [...guards, this.#keys.chunk(key.user, upload, i)], args),
        );
        if (written !== 1) throw uploadError(written);
      });
    } catch (error) {
      await this.discard(key, plan);
      throw error;
    }
  }

  /** Frees the memory at once; if that fails, the chunks expire. */
  async discard(key: PrefixKey, plan: ChunkPlan): Promise<void> {
    const names = Array.from({ length: plan.chunks }, (_, i) => this.#keys.chunk(key.user, plan.upload, i));
    // Remove the announcement first, so that chunks in flight are rejected.
    await this.#connection.client.zrem(this.#keys.uploads(key.user), announcement(key, plan)).catch(() => {});
    await this.#connection.client.unlink(...names).catch(() => {});
  }

  /** The bytes of the part or of the range; null if one of their chunks is missing or has another size. */
  async read(
    user: string,
    { upload, chunkBytes }: ChunkPlan,
    [first, size]: Extent,
    range: ByteRange = { from: 0, length: size },
  ): Promise<Uint8Array | null> {
    const from = Math.min(range.from, size);
    const to = Math.min(from + range.length, size);
    const bytes = new Uint8Array(to - from);
    if (from === to && size > 0) return bytes;
    const firstChunk = Math.floor(from / chunkBytes);
    let whole = true;
    await inParallel(chunkCount(to - firstChunk * chunkBytes, chunkBytes), async (i) => {
      const at = (firstChunk + i) * chunkBytes;
      const expected = Math.min(chunkBytes, size - at);
      const chunk = await this.#travel(expected, () =>
        this.#connection.client.getBuffer(this.#keys.chunk(user, upload, first + firstChunk + i)),
      );
      if (chunk?.length === expected)
        bytes.set(chunk.subarray(Math.max(0, from - at), to - at), Math.max(0, at - from));
      else whole = false;
    });
    return whole ? bytes : null;
  }

  async #travel<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    const reservation = await this.#travelling.reserve(bytes);
    try {
      return await work();
    } finally {
      reservation[Symbol.dispose]();
    }
  }
}

/** The upload's member in the set of uploads; see prefix-scripts.ts. */
function announcement({ name }: PrefixKey, { upload, chunks }: ChunkPlan): string {
  return `new ${upload} ${chunks} ${name}`;
}

/** The error for the reply of a script that refuses an upload. */
export function uploadError(reply: unknown): PrefixdError {
  if (reply === -3) return userRemoved();
  return new PrefixdError("store_unavailable", "The upload's data was removed from Redis before it was complete.", {
    retryAfter: 1,
  });
}

/** An empty part has one empty chunk, so that its presence can be checked too. */
function chunkCount(bytes: number, chunkBytes: number): number {
  return Math.max(1, Math.ceil(bytes / chunkBytes));
}

/**
 * Runs `work(0..count-1)` with bounded concurrency. After a failure starts no new ones, and throws once the running
 * ones have ended.
 */
async function inParallel(count: number, work: (i: number) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const worker = async (): Promise<void> => {
    try {
      while (next < count && !failed) await work(next++);
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  const results = await Promise.allSettled(Array.from({ length: Math.min(IN_FLIGHT, count) }, worker));
  const failure = results.find((result) => result.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}
