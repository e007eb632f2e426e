import { createHash } from "node:crypto";
import { ArchiveError } from "./archive-error.ts";
import { checkRecord, FORMAT, type ArchiveRecord } from "./records.ts";
import { sha256 } from "./writer.ts";

/** Longer than any line: the longest are lists of a thousand guests. */
const MAX_LINE_BYTES = 4 << 20;
/** Longer than any prefix. */
const MAX_PART_BYTES = 2 ** 31 - 1;
/** Of the line's JSON, in hex, and the blank after it. */
const SUM_CHARACTERS = 64;

/** A record with the bytes of its parts, all checked. */
export interface ReadRecord {
  readonly record: ArchiveRecord;
  readonly parts: readonly Uint8Array[];
}

/**
 * Reads an export record by record; holds one record at a time. A record comes only when its own digests are right; the
 * last one, `end`, only when the digest of the whole is. Throws ArchiveError, which names the byte.
 */
export async function* readArchive(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<ReadRecord> {
  const input = new ByteReader(bytes);
  for (let count = 0; ; count++) {
    const place = `record ${count + 1}, at byte ${input.at},`;
    const before = input.digest();
    const record = checkRecord(await readLine(input, place), place);
    if ((count === 0) !== (record.kind === "export"))
      throw new ArchiveError(
        count === 0 ? "this is not an export of prefixd: it does not begin as one" : `${place} begins another export`,
      );
    if (record.kind === "export" && record.format !== FORMAT)
      throw new ArchiveError(
        `the export is of format ${record.format}, written by prefixd ${record.prefixd}; this version reads format ${FORMAT}`,
      );
    const parts = record.kind === "prefix" ? await readParts(input, record.parts, record.meta) : [];
    if (record.kind === "end") {
      if (record.records !== count || record.sha256 !== before)
        throw new ArchiveError(
          `the export is not as it was written: its last record, at byte ${input.at}, has another digest of the whole`,
        );
      if (await input.hasMore()) throw new ArchiveError(`something follows the export's end, at byte ${input.at}`);
      yield { record, parts };
      return;
    }
    yield { record, parts };
  }
}

async function readLine(input: ByteReader, place: string): Promise<unknown> {
  const line = (await input.line(place)).toString();
  const json = line.slice(SUM_CHARACTERS + 1);
  if (createHash("sha256").update(json).digest("hex") !== line.slice(0, SUM_CHARACTERS) || line[SUM_CHARACTERS] !== " ")
    throw new ArchiveError(`${place} is not as it was written`);
  return JSON.parse(json);
}

async function readParts(
  input: ByteReader,
  parts: readonly { name: string; bytes: number; sha256: string }[],
  { user, name }: { user: string; name: string },
): Promise<Uint8Array[]> {
  const read: Uint8Array[] = [];
  for (const part of parts) {
    const place = `${part.name} of prefix ${user}/${name}, at byte ${input.at},`;
    if (part.bytes > MAX_PART_BYTES) throw new ArchiveError(`${place} is larger than any prefix`);
    const bytes = await input.exactly(part.bytes, place);
    if ((await sha256(bytes)) !== part.sha256) throw new ArchiveError(`${place} is not as it was written`);
    read.push(bytes);
  }
  return read;
}

/** Lines and bytes of a stream, counted and hashed. */
class ByteReader {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #hash = createHash("sha256");
  #chunk: Uint8Array = new Uint8Array(0);
  /** Bytes taken so far. */
  at = 0;

  constructor(bytes: AsyncIterable<Uint8Array>) {
    this.#chunks = bytes[Symbol.asyncIterator]();
  }

  /** sha256 in hex of all bytes taken so far. */
  digest(): string {
    return this.#hash.copy().digest("hex");
  }

  /** The bytes up to the next line end, which is taken too. */
  async line(place: string): Promise<Buffer> {
    const pieces: Uint8Array[] = [];
    for (let length = 0; ; ) {
      if (!(await this.hasMore())) throw cutOff(place, this.at);
      const end = this.#chunk.indexOf(10);
      const piece = this.#take(end < 0 ? this.#chunk.length : end + 1);
      pieces.push(piece);
      length += piece.length;
      if (length > MAX_LINE_BYTES) throw new ArchiveError(`${place} is not a line of an export`);
      if (end >= 0) return Buffer.concat(pieces).subarray(0, -1);
    }
  }

  async exactly(length: number, place: string): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    for (let filled = 0; filled < length; ) {
      if (!(await this.hasMore())) throw cutOff(place, this.at);
      const piece = this.#take(Math.min(length - filled, this.#chunk.length));
      bytes.set(piece, filled);
      filled += piece.length;
    }
    return bytes;
  }

  async hasMore(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return false;
      this.#chunk = next.value;
    }
    return true;
  }

  #take(length: number): Uint8Array {
    const piece = this.#chunk.subarray(0, length);
    this.#chunk = this.#chunk.subarray(length);
    this.#hash.update(piece);
    this.at += piece.length;
    return piece;
  }
}

function cutOff(place: string, at: number): ArchiveError {
  return new ArchiveError(`${place} is cut off: the export ends at byte ${at}`);
}
