/** Writes files to a folder, all of them or none. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { CommandError } from "./command-error.ts";

/** True for a plain name, which cannot write outside the folder or hide the file. */
export function isFileName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(name);
}

/** Throws CommandError if files would be overwritten without `force`. */
export function checkFolder(dir: string, names: readonly string[], force: boolean): void {
  if (force || !existsSync(dir)) return;
  const there = new Set(readdirSync(dir));
  const taken = names.filter((name) => there.has(name));
  if (taken.length > 0)
    throw new CommandError(`${dir} has ${taken.join(" and ")} already: give another folder, or --force to overwrite`);
}

/**
 * Stages the files in a temporary folder first, so that a full disk changes nothing. A new folder then appears with all
 * of them by a rename; in an existing one they are moved into place, and moved back if one of them fails.
 */
export function writeFolder(dir: string, files: ReadonlyMap<string, Uint8Array>, force: boolean): void {
  const target = resolve(dir);
  const exists = existsSync(target);
  // Stage on the same file system: an existing folder may be a mount.
  const place = exists ? target : dirname(target);
  mkdirSync(place, { recursive: true });
  const staging = mkdtempSync(join(place, ".prefixd-pull-"));
  try {
    const [fresh, old] = [join(staging, "new"), join(staging, "old")];
    mkdirSync(fresh);
    for (const [name, content] of files) writeFileSync(join(fresh, name), content, { flush: true });
    if (!exists) return renameSync(fresh, target);
    checkFolder(dir, [...files.keys()], force);
    mkdirSync(old);
    moveInto(target, fresh, old, [...files.keys()]);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

function moveInto(target: string, fresh: string, old: string, names: readonly string[]): void {
  const there = new Set(readdirSync(target));
  const undo: (() => void)[] = [];
  try {
    for (const name of names) {
      if (there.has(name)) {
        renameSync(join(target, name), join(old, name));
        undo.push(() => renameSync(join(old, name), join(target, name)));
      }
      renameSync(join(fresh, name), join(target, name));
      undo.push(() => rmSync(join(target, name), { force: true }));
    }
  } catch (error) {
    for (const step of undo.reverse()) step();
    throw error;
  }
}
