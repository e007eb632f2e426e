/**
 * One server per folder: two on one LMDB folder would not see each other's changes, and a removed user would still be
 * served. The lock is the kernel's, so it ends with the process in any case, works between containers (which may all be
 * process 1), and does not depend on the path used.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import koffi from "koffi";

/** The file's content names the holder, for people to read; only the lock itself has an effect. */
const LOCK_FILE = "server.lock";

/** Retries: the holder may have just started and not written its name yet, or just ended, or be a doctor looking. */
const [TRIES, PAUSE_MS] = [5, 50];

/** <sys/file.h>, the same on Linux and macOS. */
const [LOCK_SH, LOCK_EX, LOCK_NB] = [1, 2, 4];
/** EAGAIN on Linux and on macOS. */
const HELD: ReadonlySet<number> = new Set([11, 35]);
/** libuv's UV_FS_O_EXLOCK on Windows: nobody else can open the file. */
const WINDOWS_EXCLUSIVE = 0x1000_0000;

/** Another process holds the folder. */
export class FolderInUseError extends Error {
  override readonly name = "FolderInUseError";

  /** Who holds it, as part of a sentence. */
  readonly holder: string;

  constructor(dir: string, holder: string) {
    super(`${dir} is in use by ${holder}: one server per folder. Servers that share users and prefixes need a Redis`);
    this.holder = holder;
  }
}

export interface FolderLock {
  /** Why there is no lock; null if there is one. */
  readonly problem: string | null;
  release(): void;
}

/**
 * Locks a folder, creating it if needed. On a file system without locks there is none, and `problem` says so. Child
 * processes do not inherit the lock.
 * @throws FolderInUseError with the folder and the holder; the system's error if the folder cannot be written
 */
export async function lockFolder(dir: string): Promise<FolderLock> {
  mkdirSync(dir, { recursive: true });
  const path = join(dir, LOCK_FILE);
  for (let attempt = 1; ; attempt++) {
    const taken = takeLock(path);
    if (taken !== "held") return taken;
    if (attempt === TRIES) throw new FolderInUseError(dir, holderOf(path));
    await sleep(PAUSE_MS);
  }
}

/** The holder of the folder's lock, as part of a sentence; null if nobody holds it or there is no such folder. */
export function folderHolder(dir: string): string | null {
  const path = join(dir, LOCK_FILE);
  let file: number;
  try {
    file = openSync(path, "r");
  } catch (error) {
    return isBusy(error) ? holderOf(path) : null;
  }
  try {
    return tryLock(file, LOCK_SH) === "held" ? holderOf(path) : null;
  } finally {
    closeSync(file);
  }
}

function takeLock(path: string): FolderLock | "held" {
  let file: number;
  try {
    file = openSync(
      path,
      constants.O_RDWR | constants.O_CREAT | (process.platform === "win32" ? WINDOWS_EXCLUSIVE : 0),
      0o644,
    );
  } catch (error) {
    if (isBusy(error)) return "held";
    throw error;
  }
  const outcome = tryLock(file, LOCK_EX);
  // The file may have been deleted in between: then its lock is worthless.
  if (outcome === "held" || !isStill(file, path)) {
    closeSync(file);
    return "held";
  }
  writeHolder(file, `${process.pid} ${hostname()}\n`);
  return {
    problem: outcome,
    release: () => {
      writeHolder(file, "");
      closeSync(file);
    },
  };
}

/** null if it is ours; "held"; or why there can be no lock. */
function tryLock(file: number, operation: number): string | null {
  if (process.platform === "win32") return null;
  if (flock()(file, operation | LOCK_NB) === 0) return null;
  const code = koffi.errno();
  return HELD.has(code) ? "held" : `flock fails with error ${code}`;
}

type Flock = (file: number, operation: number) => number;
let bound: Flock | undefined;
const flock = (): Flock => (bound ??= koffi.load(null).func("int flock(int file, int operation)"));

const isBusy = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "EBUSY";

function isStill(file: number, path: string): boolean {
  const there = statSync(path, { throwIfNoEntry: false });
  return there?.ino === fstatSync(file).ino;
}

/** A full disk does not matter: the lock holds anyway. */
function writeHolder(file: number, text: string): void {
  try {
    ftruncateSync(file, 0);
    writeSync(file, text, 0);
  } catch {
    return;
  }
}

function holderOf(path: string): string {
  let text = "";
  try {
    text = readFileSync(path, "utf8");
  } catch {
    // On Windows only the holder can open it.
  }
  const [, pid, host] = /^(\d+) (\S+)\n$/.exec(text) ?? [];
  if (pid === undefined) return "another process";
  return host === hostname() ? `process ${pid}` : `process ${pid} on ${host}`;
}
