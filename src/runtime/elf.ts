/**
 * The shared libraries an ELF file links against: the NEEDED entries of its dynamic section (System V ABI, chapter 5).
 */
import { closeSync, openSync, readSync } from "node:fs";

const [PT_LOAD, PT_DYNAMIC] = [1, 2];
const [DT_NULL, DT_NEEDED, DT_STRTAB] = [0n, 1n, 5n];
/** e_ident of a 64-bit, little-endian file. */
const IDENT = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]);
const LONGEST_NAME = 256;

interface Segment {
  readonly type: number;
  readonly offset: number;
  readonly address: bigint;
  readonly size: number;
}

/** Names in file order; empty if it is not a 64-bit ELF file. @throws file system errors */
export function neededLibraries(path: string): string[] {
  const file = openSync(path, "r");
  try {
    const read = (offset: number, length: number): Buffer => {
      const bytes = Buffer.alloc(length);
      return bytes.subarray(0, readSync(file, bytes, 0, length, offset));
    };
    const header = read(0, 64);
    if (header.length < 64 || !header.subarray(0, IDENT.length).equals(IDENT)) return [];
    const segments = segmentsOf(
      read(Number(header.readBigUInt64LE(32)), header.readUInt16LE(54) * header.readUInt16LE(56)),
      header.readUInt16LE(54),
    );
    const dynamic = segments.find(({ type }) => type === PT_DYNAMIC);
    if (dynamic === undefined) return [];
    const entries = entriesOf(read(dynamic.offset, dynamic.size));
    const strings = entries.find(([tag]) => tag === DT_STRTAB)?.[1];
    const holder = segments.find(
      ({ type, address, size }) =>
        type === PT_LOAD && strings !== undefined && strings >= address && strings < address + BigInt(size),
    );
    if (strings === undefined || holder === undefined) return [];
    const at = holder.offset + Number(strings - holder.address);
    return entries
      .filter(([tag]) => tag === DT_NEEDED)
      .map(([, name]) => {
        const bytes = read(at + Number(name), LONGEST_NAME);
        return bytes.toString("latin1", 0, Math.max(0, bytes.indexOf(0)));
      });
  } finally {
    closeSync(file);
  }
}

function segmentsOf(table: Buffer, entrySize: number): Segment[] {
  return Array.from({ length: Math.floor(table.length / entrySize) }, (_, index) => {
    const at = index * entrySize;
    return {
      type: table.readUInt32LE(at),
      offset: Number(table.readBigUInt64LE(at + 8)),
      address: table.readBigUInt64LE(at + 16),
      size: Number(table.readBigUInt64LE(at + 32)),
    };
  });
}

function entriesOf(table: Buffer): [bigint, bigint][] {
  const entries: [bigint, bigint][] = [];
  for (let at = 0; at + 16 <= table.length; at += 16) {
    const tag = table.readBigUInt64LE(at);
    if (tag === DT_NULL) break;
    entries.push([tag, table.readBigUInt64LE(at + 8)]);
  }
  return entries;
}
