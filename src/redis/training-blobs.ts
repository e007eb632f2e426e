/** Files of examples and states of trainings in Redis: bytes in chunks, sent and read one by one, so that none is ever whole in memory. */
import { createHash, randomUUID } from "node:crypto";
import { open, rm } from "node:fs/promises";
import { Readable } from "node:stream";
import { PrefixdError } from "../errors.ts";
import { ByteBudget } from "../prefixes/byte-budget.ts";
import { userRemoved } from "../prefixes/tombstones.ts";
import type { IncomingFile } from "../training/jobs/store.ts";
import { orDiskFull } from "../training/jobs/work-folders.ts";
import { uploadError } from "./chunks.ts";
import { guarded, type RedisCommands } from "./connection.ts";
import type { RedisTrainingKeys } from "./training-keys.ts";
import { BEGIN_BLOB, DROP_BLOB, WRITE_BLOB } from "./training-scripts.ts";

/** What is read is checked against it. */
export interface Blob {
  readonly id: string;
  readonly chunks: number;
  readonly bytes: number;
  readonly sha256: string;
}

/** Concurrent bytes, as in chunks.ts: beside those, over the same connection. */
const BYTES_IN_FLIGHT = 1 << 20;

/** As records have it. */
export const blobText = ({ id, chunks, bytes, sha256 }: Blob): string => `${id} ${chunks} ${bytes} ${sha256}`;

export function parseBlob(text: string): Blob {
  const [id = "", chunks, bytes, sha256 = ""] = text.split(" ");
  return { id, chunks: Number(chunks), bytes: Number(bytes), sha256 };
}

export interface BlobOptions {
  /** Bytes per Redis value, so that no single command blocks the server. */
  readonly chunkBytes: number;
  /** Milliseconds after its last chunk that a blob lives to which nothing refers. */
  readonly ttlMs: number;
}

export class TrainingBlobs {
  readonly #connection: RedisCommands;
  readonly #keys: RedisTrainingKeys;
  readonly #options: BlobOptions;
  readonly #travelling = new ByteBudget(BYTES_IN_FLIGHT, { held: () => 0, evict: () => undefined });

  constructor(connection: RedisCommands, keys: RedisTrainingKeys, options: BlobOptions) {
    [this.#connection, this.#keys, this.#options] = [connection, keys, options];
  }

  /** @throws PrefixdError removed */
  async begin(user: string): Promise<ArrivingBlob> {
    const id = randomUUID();
    const keys = [this.#keys.arriving(user), this.#keys.removed(user)];
    const begun = await guarded(() => this.#connection.run(BEGIN_BLOB, keys, [id, this.#options.ttlMs]));
    if (begun !== 1) throw userRemoved();
    const { chunkBytes, ttlMs } = this.#options;
    return new ArrivingBlob(id, chunkBytes, {
      send: async (number, bytes) => {
        const written = await this.#travel(bytes.length, () =>
          this.#connection.run(WRITE_BLOB, [...keys, this.#keys.blob(user, id)], [id, number, bytes, ttlMs]),
        );
        if (written !== 1) throw uploadError(written);
      },
      drop: () => this.#connection.run(DROP_BLOB, [this.#keys.arriving(user), this.#keys.blob(user, id)], [id]),
    });
  }

  /** The caller reads it to the end or destroys it. @throws PrefixdError training_file_not_found, also while it is read */
  async open(user: string, blob: Blob): Promise<Readable> {
    const chunks = this.#read(user, blob);
    const first = (await chunks.next()).value ?? null;
    if (first === null && blob.chunks > 0) throw lostFile();
    return Readable.from(restOf(first, chunks), { objectMode: false });
  }

  /** False, and no file, if Redis does not have all of it any more. */
  async copy(user: string, blob: Blob, path: string): Promise<boolean> {
    const file = await orDiskFull(open(path, "w", 0o600));
    let isWhole = true;
    try {
      for await (const chunk of this.#read(user, blob)) {
        if (chunk === null) isWhole = false;
        else await orDiskFull(file.writeFile(chunk));
      }
    } finally {
      await file.close();
    }
    if (!isWhole) await rm(path, { force: true });
    return isWhole;
  }

  /** Its chunks; null instead of the next one if it is gone, or not what was written. */
  async *#read(user: string, { id, chunks, bytes, sha256 }: Blob): AsyncGenerator<Buffer | null, void> {
    const hash = createHash("sha256");
    let left = bytes;
    for (let number = 0; number < chunks; number++) {
      const chunk = await this.#travel(Math.min(left, this.#options.chunkBytes), () =>
        this.#connection.client.hgetBuffer(this.#keys.blob(user, id), String(number)),
      );
      left -= chunk?.length ?? 0;
      const isLast = number === chunks - 1;
      if (chunk === null || (isLast && (left !== 0 || hash.update(chunk).digest("hex") !== sha256))) {
        yield null;
        return;
      }
      if (!isLast) hash.update(chunk);
      yield chunk;
    }
  }

  #travel<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    return guarded(async () => {
      const reservation = await this.#travelling.reserve(bytes);
      try {
        return await work();
      } finally {
        reservation[Symbol.dispose]();
      }
    });
  }
}

export const lostFile = (): PrefixdError =>
  new PrefixdError("training_file_not_found", "Redis has lost a part of the file; upload it again.");

async function* restOf(first: Buffer | null, rest: AsyncGenerator<Buffer | null, void>): AsyncGenerator<Buffer> {
  if (first === null) return;
  yield first;
  for await (const chunk of rest) {
    if (chunk === null) throw lostFile();
    yield chunk;
  }
}

interface BlobPlace {
  readonly send: (number: number, bytes: Buffer) => Promise<void>;
  readonly drop: () => Promise<unknown>;
}

/** A blob that is written, chunk after chunk. It expires if the process ends. */
export class ArrivingBlob implements IncomingFile {
  readonly #id: string;
  readonly #place: BlobPlace;
  readonly #hash = createHash("sha256");
  readonly #chunk: Buffer;
  #filled = 0;
  #chunks = 0;
  bytes = 0;

  constructor(id: string, chunkBytes: number, place: BlobPlace) {
    [this.#id, this.#place] = [id, place];
    this.#chunk = Buffer.allocUnsafe(chunkBytes);
  }

  /** One at a time. @throws PrefixdError store_full, store_unavailable, removed */
  async write(bytes: Uint8Array): Promise<void> {
    this.bytes += bytes.length;
    this.#hash.update(bytes);
    for (let at = 0; at < bytes.length; ) {
      const part = bytes.subarray(at, at + this.#chunk.length - this.#filled);
      this.#chunk.set(part, this.#filled);
      this.#filled += part.length;
      at += part.length;
      if (this.#filled === this.#chunk.length) await this.#send();
    }
  }

  /** Once all of it is in Redis. */
  async finished(): Promise<Blob> {
    if (this.#filled > 0) await this.#send();
    return { id: this.#id, chunks: this.#chunks, bytes: this.bytes, sha256: this.#hash.digest("hex") };
  }

  async discard(): Promise<void> {
    await this.#place.drop().catch(() => undefined);
  }

  async #send(): Promise<void> {
    await this.#place.send(this.#chunks, this.#chunk.subarray(0, this.#filled));
    this.#chunks++;
    this.#filled = 0;
  }
}
