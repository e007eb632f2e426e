import { forkWorker } from "../http/workers/fork.ts";
import { HttpWorkers, type HttpWorkersOptions } from "../http/workers/pool.ts";
import type { Resources } from "./resources.ts";

/** null: this process holds the connections. Workers end with `resources`. */
export async function openHttpWorkers(
  options: Omit<HttpWorkersOptions, "startChild">,
  resources: Pick<Resources, "defer">,
): Promise<HttpWorkers | null> {
  if (options.count === 0) return null;
  const workers = await HttpWorkers.start({ ...options, startChild: () => forkWorker() });
  resources.defer(() => workers.close());
  return workers;
}
