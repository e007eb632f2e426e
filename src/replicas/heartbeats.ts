/** What a replica leaves behind instead of a beat when it ends in order. */
export const LEFT = "left";

/**
 * The heartbeats of all replicas as one of them has seen them. Since when a beat has not changed is counted by this process's monotonic clock, so
 * nothing hangs on the clock of the machine where they are written, which may be set.
 */
export class Heartbeats {
  readonly #graceMs: number;
  readonly #now: () => number;
  readonly #seen = new Map<string, { beat: string; since: number }>();

  /** `graceMs`: a replica whose beat has not changed for so long cannot have a lease any more. */
  constructor(graceMs: number, now: () => number = () => performance.now()) {
    this.#graceMs = graceMs;
    this.#now = now;
  }

  /** `fields`: all replicas and their beats in turn, which were read a moment ago. Who is not among them any more is still counted for a while. */
  observe(fields: readonly string[]): void {
    const since = this.#now();
    for (let i = 0; i < fields.length; i += 2) {
      const [replica, beat] = [fields[i]!, fields[i + 1]!];
      if (this.#seen.get(replica)?.beat !== beat) this.#seen.set(replica, { beat, since });
    }
  }

  /** Those that may have a lease. */
  living(): string[] {
    return [...this.#seen.keys()].filter((replica) => this.mayServe(replica));
  }

  mayServe(replica: string): boolean {
    const seen = this.#seen.get(replica);
    return seen !== undefined && seen.beat !== LEFT && !this.#isStill(seen.since);
  }

  /** Takes out those whose beat has not changed for the time of grace, and answers them with that beat. */
  takeStill(): { replica: string; beat: string }[] {
    const still = [...this.#seen].filter(([, { since }]) => this.#isStill(since));
    for (const [replica] of still) this.#seen.delete(replica);
    return still.map(([replica, { beat }]) => ({ replica, beat }));
  }

  #isStill(since: number): boolean {
    return this.#now() - since > this.#graceMs;
  }
}
