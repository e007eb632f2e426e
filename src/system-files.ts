/** Linux's files on a process and its container; on other systems there are none, and nothing is known. */
import { readFileSync } from "node:fs";

/** Returns "" if there is no such file. */
export function readSystemFile(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

/** The process's limits (`ulimit`), for `softLimit`. */
export function readProcessLimits(): string {
  return readSystemFile("/proc/self/limits");
}

/**
 * Bytes of memory that are the process's own, from the contents of /proc/self/status: resident memory without the pages
 * of mapped files (weights, LMDB), which the system drops when memory is short. null if the system does not tell.
 */
export function privateMemory(status: string): number | null {
  const kib = ["RssAnon", "RssShmem"].map((name) => new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
  return kib.includes(undefined) ? null : kib.reduce((sum, value) => sum + Number(value) * 1024, 0);
}

/** Parses "Max open files   1024   1048576   files": the first number; Infinity for "unlimited" or a missing line. */
export function softLimit(limits: string, name: string): number {
  const value = new RegExp(`^${name}\\s+(\\d+)`, "m").exec(limits)?.[1];
  return value === undefined ? Infinity : Number(value);
}
