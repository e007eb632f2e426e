/**
 * What the engine's process and an HTTP worker say to each other over a pair of sockets: frames of a kind, a connection
 * (or batch) and bytes.
 *
 *     u8 kind | u32 connection | u32 length | bytes          (little-endian)
 *
 * The connections themselves arrive by `process.send`, each with its number.
 */

/** From the engine's process. */
export const TO_WORKER = {
  /** Bytes for the client. */
  write: 1,
  /** No more bytes. */
  end: 2,
  destroy: 3,
  /** Read no more of the client, and read on. */
  pause: 4,
  resume: 5,
  /** All frames of this batch have been sent; the answer is `taken`. */
  batch: 6,
  /** A double: until when bytes that follow may be written, by `monotonicMs`; 0: always. */
  lease: 7,
} as const;

/** From a worker. */
export const FROM_WORKER = {
  /** Bytes of the client. */
  data: 1,
  /** The client sends no more. */
  end: 2,
  closed: 3,
  /** Of a batch (0: none): pairs of u32, connection and bytes that its client has not taken yet; others have none. */
  taken: 4,
} as const;

/** A worker's end of the pair. */
export const CHANNEL_FD = 4;

export const HEADER_BYTES = 9;
/** Bytes of one frame that `write` and `data` have at most, so that neither side must hold much of an unfinished one. */
export const MOST_BYTES = 65_536;

/** With a connection. */
export interface Handover {
  readonly connection: number;
}

const OFFSET = Number(process.hrtime.bigint()) / 1e6 - performance.now();

/** Milliseconds of a clock that all processes of a machine share. */
export const monotonicMs = (): number => performance.now() + OFFSET;
/** The same for a time of `performance.now()`. */
export const toMonotonic = (ms: number): number => ms + OFFSET;

export function frameHeader(kind: number, connection: number, length: number): Buffer {
  const header = Buffer.allocUnsafe(HEADER_BYTES);
  header[0] = kind;
  header.writeUInt32LE(connection, 1);
  header.writeUInt32LE(length, 5);
  return header;
}

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  readonly #onFrame: (kind: number, connection: number, bytes: Buffer) => void;
  /** The beginning of an unfinished frame. */
  #rest: Buffer | null = null;

  constructor(onFrame: (kind: number, connection: number, bytes: Buffer) => void) {
    this.#onFrame = onFrame;
  }

  read(chunk: Buffer): void {
    const bytes = this.#rest === null ? chunk : Buffer.concat([this.#rest, chunk]);
    let at = 0;
    while (bytes.length - at >= HEADER_BYTES) {
      const end = at + HEADER_BYTES + bytes.readUInt32LE(at + 5);
      if (end > bytes.length) break;
      this.#onFrame(bytes[at]!, bytes.readUInt32LE(at + 1), bytes.subarray(at + HEADER_BYTES, end));
      at = end;
    }
    this.#rest = at === bytes.length ? null : bytes.subarray(at);
  }
}
