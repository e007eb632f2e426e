import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import type { Server, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { PrefixdError } from "../../errors.ts";
import type { Logger } from "../../observability/logging.ts";
import type { Metrics } from "../../observability/metrics.ts";
import { WorkerLink } from "./link.ts";

/** Milliseconds before a worker that ended has a successor: doubled each time, until one has lasted. */
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 10_000;
const LASTED_MS = 30_000;
const LOOK_MS = 1_000;
/** So many looks in a row at which a worker has not got on mean that it hangs. */
const HANGING_LOOKS = 10;
/** Milliseconds that a worker may take to start, and to end. */
const START_MS = 30_000;
const END_MS = 2_000;

export interface HttpWorkersOptions {
  readonly count: number;
  /** Starts a process of main.ts, with a channel at CHANNEL_FD. */
  readonly startChild: () => ChildProcess;
  /** The end of the lease by `performance.now()`; Infinity: there is none to hold. */
  readonly leaseUntil: () => number;
  readonly metrics: Pick<Metrics, "httpWorkers" | "httpWorkerEnded">;
  readonly logger: Logger;
  /** How often it is looked whether workers get on, in milliseconds. */
  readonly lookMs?: number;
}

/** Processes that hold the clients' connections, for a server that handles what they ask in this one. */
export class HttpWorkers {
  readonly #options: HttpWorkersOptions;
  readonly #links = new Set<WorkerLink>();
  readonly #starting = new Set<ChildProcess>();
  /** By link: `confirmed` at the last look, and looks since it has changed. */
  readonly #looks = new Map<WorkerLink, { confirmed: number; looks: number }>();
  readonly #timer: NodeJS.Timeout;
  #pauseMs = FIRST_PAUSE_MS;
  #closed = false;

  private constructor(options: HttpWorkersOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#look(), options.lookMs ?? LOOK_MS).unref();
    options.metrics.httpWorkers(() => this.#links.size);
  }

  /** Resolves when all have started. Throws if one cannot. */
  static async start(options: HttpWorkersOptions): Promise<HttpWorkers> {
    const workers = new HttpWorkers(options);
    try {
      await Promise.all(Array.from({ length: options.count }, () => workers.#start()));
      return workers;
    } catch (error) {
      await workers.close();
      throw error;
    }
  }

  /** Process ids of those that serve. */
  get pids(): number[] {
    return [...this.#links].map(({ child }) => child.pid!);
  }

  /**
   * For probes.
   * @throws PrefixdError internal
   */
  check(): void {
    if (this.#links.size === 0) throw new PrefixdError("internal", "No HTTP worker runs; new ones are being started.");
  }

  /**
   * Lets workers hold the server's connections, including those that others pass to it. While there is no worker, it
   * holds new ones itself. Call before the server listens.
   */
  serve(server: Server): void {
    // Nothing is read of a connection that a worker gets.
    (server as Server & { pauseOnConnect: boolean }).pauseOnConnect = true;
    const emit = server.emit.bind(server) as (event: string, ...args: unknown[]) => boolean;
    server.emit = (event: string, ...args: unknown[]) => {
      if (event !== "connection") return emit(event, ...args);
      const accepted = args[0] as Socket;
      const link = this.#leastBusy();
      const relayed = link?.adopt(accepted);
      const heard = emit("connection", relayed ?? accepted);
      if (relayed === undefined) accepted.resume();
      else if (relayed.destroyed) accepted.destroy();
      else link!.handOver(relayed, accepted);
      return heard;
    };
  }

  /**
   * Resolves when all bytes written so far are with the system, or with a worker because their client does not read.
   * A worker that hangs is ended.
   */
  async settled(): Promise<void> {
    await Promise.all([...this.#links].map((link) => link.settled()));
  }

  /** Ends the workers, and with them all connections. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    const children = [...this.#starting, ...[...this.#links].map(({ child }) => child)];
    const ended = Promise.all(children.map(async (child) => (isOver(child) ? undefined : once(child, "exit"))));
    for (const child of this.#starting) child.kill("SIGKILL");
    for (const link of this.#links) link.release();
    const late = setTimeout(() => {
      for (const child of children) child.kill("SIGKILL");
    }, END_MS);
    await ended;
    clearTimeout(late);
  }

  #leastBusy(): WorkerLink | undefined {
    let least: WorkerLink | undefined;
    for (const link of this.#links) if (least === undefined || link.size < least.size) least = link;
    return least;
  }

  async #start(): Promise<void> {
    const child = this.#options.startChild();
    const startedAt = performance.now();
    this.#starting.add(child);
    try {
      await ready(child);
    } finally {
      this.#starting.delete(child);
    }
    const link = new WorkerLink(child, this.#options.leaseUntil);
    this.#links.add(link);
    // Before the link forgets its connections.
    child.prependOnceListener("exit", (code, signal) => {
      this.#links.delete(link);
      this.#looks.delete(link);
      if (this.#closed) return;
      this.#options.metrics.httpWorkerEnded();
      this.#options.logger.error({ pid: child.pid, code, signal, connections: link.size }, "an HTTP worker ended");
      if (performance.now() - startedAt > LASTED_MS) this.#pauseMs = FIRST_PAUSE_MS;
      void this.#replace();
    });
  }

  async #replace(): Promise<void> {
    while (!this.#closed) {
      await sleep(this.#pauseMs, undefined, { ref: false });
      this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
      if (this.#closed) return;
      try {
        return await this.#start();
      } catch (error) {
        if (!this.#closed) this.#options.logger.error({ err: error }, "an HTTP worker could not be started");
      }
    }
  }

  /** In looks, not in time: a machine that slept has stopped them, too. */
  #look(): void {
    for (const link of this.#links) {
      link.ask();
      const { sent, confirmed } = link.progress;
      const before = this.#looks.get(link);
      const looks = sent > confirmed && before?.confirmed === confirmed ? before.looks + 1 : 0;
      this.#looks.set(link, { confirmed, looks });
      if (looks < HANGING_LOOKS) continue;
      this.#options.logger.error({ pid: link.child.pid }, "an HTTP worker hangs and is ended");
      link.kill();
    }
  }
}

const isOver = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode !== null || signalCode !== null;

async function ready(child: ChildProcess): Promise<void> {
  const started = new AbortController();
  const { signal } = started;
  try {
    await Promise.race([
      once(child, "message", { signal }),
      once(child, "exit", { signal }).then(([code, by]) => {
        throw new Error(`an HTTP worker ended at its start: ${String(code ?? by)}`);
      }),
      sleep(START_MS, undefined, { signal }).then(() => {
        child.kill("SIGKILL");
        throw new Error(`an HTTP worker did not start within ${START_MS / 1000} s`);
      }),
    ]);
  } finally {
    started.abort();
  }
}
