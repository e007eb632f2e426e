import { createHash, type Hash } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { ArchiveRecord } from "./records.ts";

/** Bytes hashed and handed on at a time: less than a millisecond of the event loop. */
const SLICE_BYTES = 1 << 20;

/** sha256 in hex, in turns of the event loop. */
export async function sha256(bytes: Uint8Array): Promise<string> {
  const hash = createHash("sha256");
  for (let at = 0; at < bytes.length; at += SLICE_BYTES) {
    if (at > 0) await nextTurn();
    hash.update(bytes.subarray(at, at + SLICE_BYTES));
  }
  return hash.digest("hex");
}

/** Turns records into an export's bytes, which must be written in the order in which they come. */
export class ArchiveWriter {
  readonly #hash: Hash = createHash("sha256");
  readonly #onRecord: (record: ArchiveRecord) => void;
  #records = 0;

  constructor(onRecord: (record: ArchiveRecord) => void = () => {}) {
    this.#onRecord = onRecord;
  }

  /** A record and the bytes of its parts. */
  async *record(record: ArchiveRecord, parts: readonly Uint8Array[] = []): AsyncGenerator<Uint8Array> {
    this.#onRecord(record);
    yield this.#hashed(lineOf(record));
    this.#records++;
    for (const part of parts) {
      for (let at = 0; at < part.length; at += SLICE_BYTES) {
        await nextTurn();
        yield this.#hashed(part.subarray(at, at + SLICE_BYTES));
      }
    }
  }

  /** The last record. */
  end(): Uint8Array {
    return lineOf({ kind: "end", records: this.#records, sha256: this.#hash.digest("hex") });
  }

  #hashed(bytes: Uint8Array): Uint8Array {
    this.#hash.update(bytes);
    return bytes;
  }
}

function lineOf(record: ArchiveRecord): Buffer {
  const json = JSON.stringify(record);
  return Buffer.from(`${createHash("sha256").update(json).digest("hex")} ${json}\n`);
}
