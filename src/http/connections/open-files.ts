import { readProcessLimits, softLimit } from "../../system-files.ts";

/** What the process opens besides connections: the store's environments, Redis, logs, libraries. */
const OTHER_FILES = 512;

/**
 * Connections that leave the rest of the process enough open files (`ulimit -n`): without one the store could not be opened, nor a
 * file read. Infinity where there is no limit, or where the system does not say (other than Linux).
 */
export function connectionsAllowed(limits: string = readProcessLimits()): number {
  const files = softLimit(limits, "Max open files");
  return Math.max(Math.floor(files / 2), files - OTHER_FILES);
}
