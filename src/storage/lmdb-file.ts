import { randomUUID } from "node:crypto";
import { closeSync, existsSync, ftruncateSync, linkSync, mkdirSync, openSync, readSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { open, type RootDatabase } from "lmdb";

const [EIO, EFBIG, ENOSPC, EDQUOT, MAP_FULL] = [5, 27, 28, 122, -30792];
const FULL: ReadonlySet<unknown> = new Set([EFBIG, ENOSPC, EDQUOT, MAP_FULL, "EFBIG", "ENOSPC", "EDQUOT"]);
/** Only address space: growing the map later would leave the old one mapped. */
const MAP_BYTES = 1 << 28;
/** What LMDB's table of 126 readers takes, in whole pages. */
const LOCK_BYTES = 3 << 12;
/** The two pages that a data file begins with. */
const FIRST_BYTES = 2 << 12;
/** What one transaction may write besides its data. */
const SLACK_BYTES = 1 << 16;

export interface LmdbSettings {
  readonly encoding: "binary" | "json";
  /** Named databases. */
  readonly maxDbs: number;
  /** false: pages are zeroed before use, so that none carries what the process's memory held before. */
  readonly noMemInit?: boolean;
}

/** Opens (or makes) the environment in a folder. A transaction that was answered is on disk. */
export function openLmdb<V>(dir: string, settings: LmdbSettings): RootDatabase<V, string> {
  mkdirSync(dir, { recursive: true });
  checkDataFile(join(dir, "data.mdb"));
  reserveLockFile(join(dir, "lock.mdb"));
  // A new file whose beginning cannot be written would end the process, too.
  if (!existsSync(join(dir, "data.mdb")) && !hasRoom(dir, FIRST_BYTES)) throw Object.assign(new Error(`there is no room for a file in ${dir}`), { code: "ENOSPC" });
  // overlappingSync would answer before the data is on disk. noSubdir: a folder may have a dot in its name.
  return open<V, string>({ path: dir, noSubdir: false, mapSize: MAP_BYTES, overlappingSync: false, ...settings });
}

/** Given another file, the native library crashes the process: the magic number and version of the first page are looked at first. */
function checkDataFile(path: string): void {
  const start = Buffer.alloc(32);
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return;
    throw error;
  }
  const size = readSync(file, start, 0, start.length, 0);
  closeSync(file);
  if (size === 0 || (size === start.length && start.readUInt32LE(24) === 0xbeefc0de && start.readUInt32LE(28) === 2)) return;
  throw new Error(`${path} is not an LMDB file of the right version`);
}

/**
 * LMDB makes its lock file with holes and maps it: on a full disk the first write into a hole would end the process (SIGBUS). So the
 * file is there before, without holes; it appears whole, since another process may open the folder at the same time.
 */
function reserveLockFile(path: string): void {
  if (existsSync(path)) return;
  const made = `${path}.${randomUUID()}`;
  try {
    writeFileSync(made, Buffer.alloc(LOCK_BYTES));
    linkUnlessThere(made, path);
  } finally {
    rmSync(made, { force: true });
  }
}

function linkUnlessThere(made: string, path: string): void {
  try {
    linkSync(made, path);
  } catch (error) {
    // Another process was quicker; or the file system has no links, and LMDB makes its own.
    if (FULL.has((error as NodeJS.ErrnoException).code)) throw error;
  }
}

/**
 * Whether a write of about `bytes` into the environment of a folder failed for want of room. LMDB turns a short write into EIO: then
 * it is tried how far a file of that size could be written.
 */
export function isDiskFull(error: unknown, dir: string, bytes: number): boolean {
  if (!(error instanceof Error) || !("code" in error)) return false;
  return FULL.has(error.code) || (error.code === EIO && !hasRoom(dir, bytes + SLACK_BYTES));
}

function hasRoom(dir: string, bytes: number): boolean {
  const probe = join(dir, `probe.${randomUUID()}`);
  const data = join(dir, "data.mdb");
  try {
    const file = openSync(probe, "wx");
    try {
      const end = existsSync(data) ? statSync(data).size : 0;
      // A hole first: a file's size can be limited too.
      ftruncateSync(file, end);
      const piece = Buffer.alloc(Math.min(bytes, 1 << 20));
      for (let done = 0; done < bytes; ) done += writeSync(file, piece, 0, Math.min(piece.length, bytes - done), end + done);
    } finally {
      closeSync(file);
      rmSync(probe);
    }
    return true;
  } catch (error) {
    return !FULL.has((error as NodeJS.ErrnoException).code);
  }
}
