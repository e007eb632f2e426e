/** A folder for this process's trainings on this machine. */
import { randomUUID } from "node:crypto";
import { mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { FolderInUseError, lockFolder, type FolderLock } from "../lmdb/folder-lock.ts";
import { eraseFolder } from "../training/jobs/work-folders.ts";
import type { Resources } from "./resources.ts";

/**
 * A new folder in `dir`, after what killed processes left there has been erased. It is locked, so that no other process
 * takes it for such a one, and erased with `resources`.
 */
export async function openWorkFolder(dir: string, resources: Resources): Promise<string> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (const entry of await readdir(dir, { withFileTypes: true }))
    if (entry.isDirectory()) await eraseIfLeft(join(dir, entry.name));
  for (;;) {
    const path = join(dir, randomUUID());
    // Another process may have taken it for one that was left, and locked it first.
    const lock = await lockFolder(path).catch(unlessInUse);
    if (lock === null) continue;
    resources.defer(async () => {
      await eraseFolder(path);
      lock.release();
    });
    return path;
  }
}

async function eraseIfLeft(path: string): Promise<void> {
  const lock = await lockFolder(path).catch(unlessInUse);
  // Without locks nobody knows whether a process works there.
  if (lock !== null && lock.problem === null) await eraseFolder(path);
  lock?.release();
}

function unlessInUse(error: unknown): FolderLock | null {
  if (error instanceof FolderInUseError) return null;
  throw error;
}
