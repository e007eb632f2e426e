/** Milliseconds: longer than a request takes from being let in to the engine, and no longer than the store refuses the user's uploads. */
const REMOVED_MS = 600_000;

/** Users removed lately: a request of theirs may have been let in before and not have come to the engine. */
export class RemovedUsers {
  readonly #until = new Map<string, number>();

  add(user: string): void {
    const now = performance.now();
    for (const [other, until] of this.#until) if (until <= now) this.#until.delete(other);
    this.#until.set(user, now + REMOVED_MS);
  }

  /** A user of this id has been created anew. */
  delete(user: string): void {
    this.#until.delete(user);
  }

  has(user: string): boolean {
    return (this.#until.get(user) ?? 0) > performance.now();
  }
}
