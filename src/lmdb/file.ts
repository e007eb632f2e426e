import { randomUUID } from "node:crypto";
import {
  closeSync,
  existsSync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { open, type RootDatabase } from "lmdb";
import { checkLmdbFile, DamagedFileError, type ContentsCheck } from "./check.ts";

const [EIO, EFBIG, ENOSPC, EDQUOT, MAP_FULL] = [5, 27, 28, 122, -30792];
const FULL: ReadonlySet<unknown> = new Set([EFBIG, ENOSPC, EDQUOT, MAP_FULL, "EFBIG", "ENOSPC", "EDQUOT"]);
/** Whether a system call failed for lack of space. */
export const isFull = (error: unknown): boolean => error instanceof Error && "code" in error && FULL.has(error.code);
/** Address space only: growing the map later would leave the old one mapped. */
const MAP_BYTES = 1 << 28;
/** Size of LMDB's table of 126 readers, in whole pages. */
const LOCK_BYTES = 3 << 12;
/** The two meta pages at the start of a data file. */
const FIRST_BYTES = 2 << 12;
/** Bytes a transaction may write besides its data. */
const SLACK_BYTES = 1 << 16;

const ZEROS = Buffer.alloc(1 << 20);

/** LMDB's name of the data file. */
export const DATA_FILE = "data.mdb";

export interface LmdbSettings {
  /** Maximum number of named databases. */
  readonly maxDbs: number;
  readonly contents?: () => ContentsCheck;
  /** True if the file is known to be sound. */
  readonly checked?: boolean;
}

/** Identifies a file and its last write. */
export interface FileState {
  readonly dev: bigint;
  readonly ino: bigint;
  readonly size: bigint;
  readonly mtimeNs: bigint;
}

/**
 * An open environment's file. One that was deleted, replaced or truncated must not be used any more: writes to it are
 * lost, and reading a missing part ends the process. LMDB itself never shortens a file.
 */
export class OpenFile {
  readonly #dir: string;
  #state: FileState;

  /** Throws DamagedFileError when there is none. */
  constructor(dir: string) {
    this.#dir = dir;
    this.#state = fileState(dir);
  }

  isStillThere(): boolean {
    const now = statOf(this.#dir);
    if (now === null || now.dev !== this.#state.dev || now.ino !== this.#state.ino || now.size < this.#state.size)
      return false;
    this.#state = now;
    return true;
  }

  /** Call after a write: it must have gone to the file that still has the name. */
  mustBeThere(): void {
    if (!this.isStillThere())
      throw new DamagedFileError(`${join(this.#dir, DATA_FILE)} was deleted, replaced or cut while it was open`);
  }

  /** The file's state when last seen. */
  get state(): FileState {
    return this.#state;
  }
}

/** Throws DamagedFileError when there is none. */
export function fileState(dir: string): FileState {
  const state = statOf(dir);
  if (state === null) throw new DamagedFileError(`${join(dir, DATA_FILE)} is missing`);
  return state;
}

export function isUnchanged(before: FileState, now: FileState): boolean {
  return now.dev === before.dev && now.ino === before.ino && now.size === before.size && now.mtimeNs === before.mtimeNs;
}

function statOf(dir: string): FileState | null {
  return statSync(join(dir, DATA_FILE), { bigint: true, throwIfNoEntry: false }) ?? null;
}

/** Creates an environment in a new folder below an existing one. */
export function makeLmdb(dir: string, settings: LmdbSettings): RootDatabase<Buffer, string> {
  mkdirSync(dir);
  reserveLockFile(join(dir, "lock.mdb"));
  // Failing to write the start of a new file would end the process, too.
  const full = tryRoom(dir, FIRST_BYTES + SLACK_BYTES);
  if (full !== null) throw full;
  return openUnchecked(dir, settings);
}

/**
 * Opens the environment in a folder. Committed transactions are on disk.
 * @throws DamagedFileError if there is none, or if the file or its contents cannot be what was written
 */
export function openLmdb(dir: string, settings: LmdbSettings): RootDatabase<Buffer, string> {
  fileState(dir);
  if (settings.checked !== true) checkLmdbFile(join(dir, DATA_FILE), settings.contents);
  reserveLockFile(join(dir, "lock.mdb"));
  return openUnchecked(dir, settings);
}

function openUnchecked(dir: string, { maxDbs }: LmdbSettings): RootDatabase<Buffer, string> {
  // overlappingSync would confirm before the data is on disk. noSubdir: a folder's name may contain a dot. noMemInit
  // would leave old process memory in new pages: another user's data.
  return open<Buffer, string>({
    path: dir,
    noSubdir: false,
    mapSize: MAP_BYTES,
    overlappingSync: false,
    noMemInit: false,
    encoding: "binary",
    maxDbs,
  });
}

/**
 * LMDB creates its lock file sparse and maps it: on a full disk the first write into a hole would end the process
 * (SIGBUS). So the file is created before, fully allocated. It appears atomically, since another process may open the
 * folder at the same time.
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
    // Another process was faster; or the file system has no hard links, and LMDB creates its own.
    if (FULL.has((error as NodeJS.ErrnoException).code)) throw error;
  }
}

/**
 * Call before each transaction that writes about `bytes` into a folder's environment. A write that fails within lmdb-js 3.5
 * can end the process: `mdb_page_flush` prints the error into a buffer that is too short for it.
 * @throws an error with code ENOSPC, EFBIG or EDQUOT, see `isDiskFull`
 */
export function mustHaveRoom(dir: string, bytes: number): void {
  const full = tryRoom(dir, bytes + SLACK_BYTES);
  if (full !== null) throw full;
}

/**
 * True if a write of about `bytes` into a folder's environment failed for lack of space. LMDB turns a short write into
 * EIO; then this tests whether a file of that size could be written.
 */
export function isDiskFull(error: unknown, dir: string, bytes: number): boolean {
  if (!(error instanceof Error) || !("code" in error)) return false;
  return FULL.has(error.code) || (error.code === EIO && tryRoom(dir, bytes + SLACK_BYTES) !== null);
}

/** The error of writing a file of zeros as large as the data file would become, if space is what it lacks. */
function tryRoom(dir: string, bytes: number): Error | null {
  // One name, so that what a kill leaves is overwritten by the next.
  const probe = join(dir, "probe");
  const data = join(dir, DATA_FILE);
  try {
    const file = openSync(probe, "w");
    try {
      const end = existsSync(data) ? statSync(data).size : 0;
      // Extend the file first: file sizes can be limited too.
      ftruncateSync(file, end);
      for (let done = 0; done < bytes; )
        done += writeSync(file, ZEROS, 0, Math.min(ZEROS.length, bytes - done), end + done);
    } finally {
      closeSync(file);
      rmSync(probe, { force: true });
    }
    return null;
  } catch (error) {
    return FULL.has((error as NodeJS.ErrnoException).code) ? (error as Error) : null;
  }
}
