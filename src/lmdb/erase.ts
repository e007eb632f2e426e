import { closeSync, fsyncSync, openSync, readdirSync, rmdirSync, statSync, unlinkSync, writeSync } from "node:fs";
import { join } from "node:path";

const ZEROS = new Uint8Array(1 << 20);

/**
 * Overwrites every file of a folder and of those in it with zeros, then deletes them. Copies kept by a copy-on-write file
 * system, a snapshot or a flash disk are out of a program's reach.
 */
export function eraseFolder(dir: string): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    if (entry.isDirectory()) eraseFolder(path);
    else eraseFile(path);
  }
  rmdirSync(dir);
}

/** Overwrites a file with zeros, then deletes it. */
export function eraseFile(path: string): void {
  const file = openSync(path, "r+");
  try {
    const { size } = statSync(path);
    for (let at = 0; at < size; at += ZEROS.length) writeSync(file, ZEROS, 0, Math.min(ZEROS.length, size - at), at);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  unlinkSync(path);
}

/** Syncs a folder's entries: only then is a created, renamed or deleted file sure to survive a crash as such. */
export function syncFolder(dir: string): void {
  const folder = openSync(dir, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}
