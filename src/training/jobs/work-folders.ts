/** Folders of jobs that run on this machine, while what belongs to them is kept elsewhere. */
import { createHash } from "node:crypto";
import { mkdir, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { PrefixdError } from "../../errors.ts";

const ZEROS = new Uint8Array(1 << 20);
/** The system's codes for a full disk, a quota, and a limit on a file's size. */
export const NO_ROOM: ReadonlySet<unknown> = new Set(["ENOSPC", "EDQUOT", "EFBIG"]);

export class WorkFolders {
  readonly #dir: string;

  /** @param dir this process's own */
  constructor(dir: string) {
    this.#dir = dir;
  }

  /** @throws PrefixdError store_full, the system's errors */
  async make(user: string, id: string): Promise<string> {
    const path = this.#of(user, id);
    await orDiskFull(mkdir(path, { recursive: true, mode: 0o700 }));
    return path;
  }

  /** Never fails: what is left goes at the next start. */
  async erase(user: string, id: string): Promise<void> {
    await eraseFolder(this.#of(user, id)).catch(() => undefined);
  }

  #of(user: string, id: string): string {
    return join(this.#dir, createHash("sha256").update(`${user}/${id}`).digest("hex"));
  }
}

/**
 * Overwrites every file of a folder and of those in it, then deletes them; a folder that is not there is no error. Others
 * are served meanwhile.
 */
export async function eraseFolder(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true }).catch(() => [])) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) await eraseFolder(path);
    else if (entry.isFile()) await overwrite(path);
  }
  await rm(dir, { recursive: true, force: true });
}

async function overwrite(path: string): Promise<void> {
  const file = await open(path, "r+");
  try {
    const { size } = await file.stat();
    for (let at = 0; at < size; at += ZEROS.length) await file.write(ZEROS, 0, Math.min(ZEROS.length, size - at), at);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** @throws PrefixdError store_full for a full disk, else what `work` throws */
export async function orDiskFull<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof Error && "code" in error && NO_ROOM.has(error.code))
      throw new PrefixdError("store_full", "The server's disk is full.", { cause: error });
    throw error;
  }
}
