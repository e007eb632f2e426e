import { readFileSync } from "node:fs";

/** What the process opens besides connections: the store's environments, Redis, logs, libraries. */
const OTHER_FILES = 512;

/**
 * Connections that leave the rest of the process enough open files (`ulimit -n`): without one the store could not be opened, nor a
 * file read. Infinity where there is no limit, or where the system does not say (other than Linux).
 */
export function connectionsAllowed(limits: string = readLimits()): number {
  const files = /^Max open files\s+(\d+)/m.exec(limits)?.[1];
  return files === undefined ? Infinity : Math.max(Math.floor(Number(files) / 2), Number(files) - OTHER_FILES);
}

function readLimits(): string {
  try {
    return readFileSync("/proc/self/limits", "utf8");
  } catch {
    return "";
  }
}
