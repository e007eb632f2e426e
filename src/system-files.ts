/** What Linux tells of a process and its container in files; elsewhere there are none, and nothing is known. */
import { readFileSync } from "node:fs";

/** "" where there is no such file. */
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

/** "Max open files   1024   1048576   files": the first number; Infinity for "unlimited" and for what is not there. */
export function softLimit(limits: string, name: string): number {
  const value = new RegExp(`^${name}\\s+(\\d+)`, "m").exec(limits)?.[1];
  return value === undefined ? Infinity : Number(value);
}
