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

/** Parses "Max open files   1024   1048576   files": the first number; Infinity for "unlimited" or a missing line. */
export function softLimit(limits: string, name: string): number {
  const value = new RegExp(`^${name}\\s+(\\d+)`, "m").exec(limits)?.[1];
  return value === undefined ? Infinity : Number(value);
}
