/** Starts HTTP workers; the only module that knows how their processes are started. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { HttpWorkers, type HttpWorkersOptions } from "../http/workers/pool.ts";
import type { Resources } from "./resources.ts";
import { withoutSecrets } from "./without-secrets.ts";

// Resolved beside this file: .ts when run from src, .js from dist.
const ENTRY = fileURLToPath(
  new URL(`../http/workers/main${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url),
);

/** null: this process holds the connections. Workers end with `resources`. */
export async function openHttpWorkers(
  options: Omit<HttpWorkersOptions, "startChild">,
  resources: Pick<Resources, "defer">,
): Promise<HttpWorkers | null> {
  if (options.count === 0) return null;
  const workers = await HttpWorkers.start({
    ...options,
    startChild: () => fork(ENTRY, [], { stdio: ["ignore", "ignore", "inherit", "ipc", "pipe"], env: withoutSecrets() }),
  });
  resources.defer(() => workers.close());
  return workers;
}
