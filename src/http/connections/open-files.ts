import { readProcessLimits, softLimit } from "../../system-files.ts";

/** File descriptors for everything but connections: the store's environments, Redis, logs, libraries. */
const OTHER_FILES = 512;

/**
 * Number of connections that leaves the rest of the process enough file descriptors (`ulimit -n`) to open the store and
 * read files. Infinity if there is no limit, or the system does not report one (other than Linux).
 */
export function connectionsAllowed(limits: string = readProcessLimits()): number {
  const files = softLimit(limits, "Max open files");
  return Math.max(Math.floor(files / 2), files - OTHER_FILES);
}
