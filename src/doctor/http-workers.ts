/** Whether HTTP workers (`--http-workers`) run here: one is started, and a request is answered through it. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { forkWorker } from "../http/workers/fork.ts";
import { HttpWorkers } from "../http/workers/pool.ts";
import { RelayedSocket } from "../http/workers/relayed-socket.ts";
import { createLogger } from "../observability/logging.ts";
import { threadsWithin } from "../runtime/cpu-quota.ts";
import type { MachineReport } from "./machine.ts";

export interface HttpWorkersReport {
  readonly usable: boolean;
  /** null: usable. */
  readonly problem: string | null;
  /** Processors that are left for workers beside the server's own thread and a model on the CPU. */
  readonly processors: number;
}

export interface TrialOptions {
  /** A worker's entry point; default: the real one. */
  readonly entry?: string;
  /** For the answer, once the worker has started. */
  readonly timeoutMs?: number;
}

/** @param modelThreads of a model on the CPU, 0: all; null: the model is on another device */
export function processorsForWorkers({ cores, quota }: MachineReport["cpu"], modelThreads: number | null): number {
  const allowed = threadsWithin(quota, cores) || cores;
  const model = modelThreads === null ? 0 : modelThreads || allowed;
  return Math.max(0, allowed - 1 - model);
}

/** What keeps a worker from holding a connection here; null: nothing. Never rejects. */
export async function httpWorkerProblem({ entry, timeoutMs = 10_000 }: TrialOptions = {}): Promise<string | null> {
  const server = createServer((request, response) => response.end(String(request.socket instanceof RelayedSocket)));
  let workers: HttpWorkers | null = null;
  try {
    workers = await HttpWorkers.start({
      count: 1,
      startChild: () => forkWorker(entry),
      leaseUntil: () => Infinity,
      metrics: { httpWorkers() {}, httpWorkerEnded() {} },
      logger: createLogger("silent"),
    });
    workers.serve(server);
    await once(server.listen(0, "127.0.0.1"), "listening");
    const { port } = server.address() as AddressInfo;
    const answer = await fetch(`http://127.0.0.1:${port}`, { signal: AbortSignal.timeout(timeoutMs) });
    return (await answer.text()) === "true" ? null : "the connection was not passed to the worker";
  } catch (error) {
    const { name, message, cause } = error as Error;
    if (name === "TimeoutError") return `a worker did not answer within ${timeoutMs / 1000} s`;
    return cause instanceof Error ? `${message}: ${cause.message}` : message;
  } finally {
    await workers?.close();
    server.close();
  }
}
