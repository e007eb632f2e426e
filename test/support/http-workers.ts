/** Suites that use connections run a second time with workers: the files in test/http/workers/ say which. */
import { fork } from "node:child_process";
import t from "tap";
import { HttpWorkers, type HttpWorkersOptions } from "../../src/http/workers/pool.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import { SOURCES } from "./program.ts";

/** 0: servers of tests hold their connections themselves. */
export const HTTP_WORKERS = Number(process.env["TEST_HTTP_WORKERS"] ?? 0);

const ENTRY = new URL("../../src/http/workers/main.ts", import.meta.url);

/** Workers without what the test runner adds to its processes; the caller closes them. */
export function startHttpWorkers(count: number, options: Partial<HttpWorkersOptions> = {}): Promise<HttpWorkers> {
  const env = { ...process.env };
  delete env["NODE_OPTIONS"];
  return HttpWorkers.start({
    count,
    startChild: () =>
      fork(ENTRY, [], { stdio: ["ignore", "ignore", "inherit", "ipc", "pipe"], execArgv: [...SOURCES], env }),
    leaseUntil: () => Infinity,
    metrics: new Metrics({ processMetrics: false }),
    logger: createLogger("silent"),
    ...options,
  });
}

let shared: Promise<HttpWorkers> | null = null;

/** The same for all servers of this process; null: none. */
export function sharedHttpWorkers(): Promise<HttpWorkers | null> {
  if (HTTP_WORKERS === 0) return Promise.resolve(null);
  if (shared === null) {
    shared = startHttpWorkers(HTTP_WORKERS);
    t.teardown(async () => (await shared!).close());
  }
  return shared;
}
