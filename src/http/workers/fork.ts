import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";

// Resolved beside this file: .ts when run from src, .js from dist.
const ENTRY = fileURLToPath(new URL(`./main${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url));

/** Starts a worker's process, with a channel at CHANNEL_FD. */
export const forkWorker = (env: NodeJS.ProcessEnv, entry = ENTRY): ChildProcess =>
  fork(entry, [], { stdio: ["ignore", "ignore", "inherit", "ipc", "pipe"], env });
