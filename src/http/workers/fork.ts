import { fork, type ChildProcess } from "node:child_process";
import { fileURLToPath } from "node:url";
import { withoutSecrets } from "../../without-secrets.ts";

// Resolved beside this file: .ts when run from src, .js from dist.
const ENTRY = fileURLToPath(new URL(`./main${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url));

/** Starts a worker's process, with a channel at CHANNEL_FD and none of the server's secrets. */
export const forkWorker = (entry = ENTRY): ChildProcess =>
  fork(entry, [], { stdio: ["ignore", "ignore", "inherit", "ipc", "pipe"], env: withoutSecrets() });
