/**
 * Milliseconds. Longer than a request takes from admission to the engine, and no longer than the store refuses the
 * user's uploads.
 */
const REMOVED_MS = 600_000;

/**
 * Users recently removed or suspended, or keys recently deleted: a request admitted before that may not have reached the
 * engine yet.
 */
export class RemovedUsers {
  readonly #until = new Map<string, number>();

  add(user: string): void {
    const now = performance.now();
    for (const [other, until] of this.#until) if (until <= now) this.#until.delete(other);
    this.#until.set(user, now + REMOVED_MS);
  }

  /** Call when a user with this id is created again. */
  delete(user: string): void {
    this.#until.delete(user);
  }

  has(user: string): boolean {
    return (this.#until.get(user) ?? 0) > performance.now();
  }
}
