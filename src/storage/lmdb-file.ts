import { closeSync, openSync, readSync, statfsSync } from "node:fs";

const [EIO, ENOSPC, EDQUOT, MAP_FULL] = [5, 28, 122, -30792];

/** Given another file, the native library crashes the process: the magic number and version of the first page are looked at first. */
export function checkLmdbFile(path: string): void {
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

/** Whether a write of about `bytes` failed for want of room. LMDB turns a short write into EIO: then the file system is asked. */
export function isDiskFull(error: unknown, dir: string, bytes: number): boolean {
  if (!(error instanceof Error) || !("code" in error)) return false;
  const { code } = error;
  if (code === ENOSPC || code === EDQUOT || code === MAP_FULL || code === "ENOSPC" || code === "EDQUOT") return true;
  if (code !== EIO) return false;
  const { bavail, bsize } = statfsSync(dir);
  return bavail * bsize < 2 * bytes + (1 << 20);
}
