/** The last beat of a replica that shut down cleanly. */
export const LEFT = "left";

/**
 * The heartbeats of all replicas, as seen by this one. The age of a beat is measured on this process's monotonic clock,
 * so nothing depends on the clock of the machine that stores the beats, which may be adjusted.
 */
export class Heartbeats {
  readonly #graceMs: number;
  readonly #now: () => number;
  readonly #seen = new Map<string, { beat: string; since: number }>();

  /** `graceMs`: a replica whose beat has not changed for longer than this no longer holds a lease. */
  constructor(graceMs: number, now: () => number = () => performance.now()) {
    this.#graceMs = graceMs;
    this.#now = now;
  }

  /**
   * @param fields alternating replica ids and beats, just read. A replica missing from them still counts as living
   * until the grace period ends.
   */
  observe(fields: readonly string[]): void {
    const since = this.#now();
    for (let i = 0; i < fields.length; i += 2) {
      const [replica, beat] = [fields[i]!, fields[i + 1]!];
      if (this.#seen.get(replica)?.beat !== beat) this.#seen.set(replica, { beat, since });
    }
  }

  /** The replicas that may hold a lease. */
  living(): string[] {
    return [...this.#seen.keys()].filter((replica) => this.mayServe(replica));
  }

  mayServe(replica: string): boolean {
    const seen = this.#seen.get(replica);
    return seen !== undefined && seen.beat !== LEFT && !this.#isStill(seen.since);
  }

  /** Removes and returns the replicas whose beat has not changed for the grace period. */
  takeStill(): { replica: string; beat: string }[] {
    const still = [...this.#seen].filter(([, { since }]) => this.#isStill(since));
    for (const [replica] of still) this.#seen.delete(replica);
    return still.map(([replica, { beat }]) => ({ replica, beat }));
  }

  #isStill(since: number): boolean {
    return this.#now() - since > this.#graceMs;
  }
}
