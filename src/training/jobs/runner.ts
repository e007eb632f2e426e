import { randomUUID } from "node:crypto";
import { RemovedUsers } from "../../replicas/removed-users.ts";
import { JobRun, type RunParts } from "./run-job.ts";
import type { WaitingJob } from "./store.ts";

/** How often the queue is looked at, in milliseconds: for jobs of other replicas, and for those that must wait again. */
const LOOK_MS = 1_000;

export interface RunnerParts extends RunParts {
  /** The user's service so far, on this replica. */
  readonly serviceOf: (user: string) => number;
  /** Whether the user's jobs must wait. */
  readonly isSuspended: (user: string) => Promise<boolean>;
  /** Whether this replica may serve now. */
  readonly mayRun: () => boolean;
}

/** Takes jobs from the queue, one at a time. */
export class JobRunner {
  readonly #parts: RunnerParts;
  readonly #holder = randomUUID();
  readonly #removed = new RemovedUsers();
  readonly #timer: NodeJS.Timeout;
  #current: { readonly run: JobRun; readonly over: Promise<void> } | null = null;
  #looking: Promise<void> | null = null;
  #closed = false;

  constructor(parts: RunnerParts) {
    this.#parts = parts;
    this.#timer = setInterval(() => this.look(), LOOK_MS).unref();
    this.look();
  }

  /** Takes a job if none is running. */
  look(): void {
    if (this.#closed || !this.#parts.mayRun() || this.#current !== null || this.#looking !== null) return;
    this.#looking = this.#take()
      .catch((error: unknown) => this.#parts.log("warn", { err: error }, "the queue of training jobs cannot be read"))
      .finally(() => (this.#looking = null));
  }

  /** Ends the user's job and takes none of theirs until `readmitUser`. Resolves when no process of theirs is left. */
  async endOfUser(user: string): Promise<void> {
    this.#removed.add(user);
    await this.kill(user);
  }

  /** Lets the user's running job keep its state and wait again, and takes none of theirs while they are suspended. */
  async suspendUser(user: string): Promise<void> {
    await this.#looking;
    if (this.#current?.run.user === user) this.#current.run.stop();
  }

  /** A user with this id was created again. */
  readmitUser(user: string): void {
    this.#removed.delete(user);
  }

  isRemoved(user: string): boolean {
    return this.#removed.has(user);
  }

  /** Ends the user's job, or this one of theirs, at once. Resolves when its process is gone. */
  async kill(user: string, id?: string): Promise<void> {
    await this.#looking;
    const current = this.#current;
    if (current === null || current.run.user !== user || (id ?? current.run.id) !== current.run.id) return;
    current.run.kill();
    await current.over;
  }

  /** Ends the running job at once; it waits again, with the state that was kept last. */
  lapse(): void {
    this.#current?.run.kill();
  }

  /** Lets the running job keep its state and wait again, and takes no other. */
  async close(): Promise<void> {
    this.#closed = true;
    clearInterval(this.#timer);
    await this.#looking;
    this.#current?.run.stop();
    await this.#current?.over;
  }

  async #take(): Promise<void> {
    const { store, quota, serviceOf, isSuspended, mayRun } = this.#parts;
    const waiting = await store.waiting(quota, Date.now(), this.#holder);
    for (const { job: next } of inTurn(waiting, serviceOf)) {
      const { user, id } = next;
      if (this.#closed || !mayRun()) return;
      if (this.#removed.has(user) || (await isSuspended(user))) continue;
      const claim = { user, id, holder: this.#holder };
      const job = await store.claim(claim);
      if (job === null) continue;
      // Removed while it was claimed, or the replica may not know.
      if (this.#removed.has(user) || !mayRun()) {
        await store.release(claim);
        continue;
      }
      const run = new JobRun(this.#parts, job, this.#holder);
      const over = run.run().finally(() => (this.#current = null));
      this.#current = { run, over };
      return;
    }
  }
}

/**
 * Those of the users with the fewest running jobs, on any replica, first; then those of the user with the least service on
 * this one, which is what their training here competes with; then the oldest.
 */
export function inTurn(jobs: readonly WaitingJob[], serviceOf: (user: string) => number): readonly WaitingJob[] {
  return [...jobs].sort(
    (a, b) =>
      a.running - b.running || serviceOf(a.job.user) - serviceOf(b.job.user) || a.job.createdAt - b.job.createdAt,
  );
}
