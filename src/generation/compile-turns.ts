import { setImmediate as nextTurn } from "node:timers/promises";

/**
 * When constraints are compiled, so that many at once hold nobody up: one step in each turn of the event loop, whoever makes it, and for
 * each user one constraint after another.
 */
export class CompileTurns {
  #last: Promise<void> = Promise.resolve();
  /** By user: resolves when all that has been begun has ended. */
  readonly #users = new Map<string, Promise<void>>();

  /** Resolves in a turn of the event loop that is the caller's alone. */
  next(): Promise<void> {
    this.#last = this.#last.then(() => nextTurn());
    return this.#last;
  }

  /** Does `work` when the user's work before has ended. Throws what it throws. */
  async inOrder<T>(user: string, work: () => Promise<T>): Promise<T> {
    const own = (this.#users.get(user) ?? Promise.resolve()).then(work);
    const ended = own.then(ignore, ignore);
    this.#users.set(user, ended);
    try {
      return await own;
    } finally {
      if (this.#users.get(user) === ended) this.#users.delete(user);
    }
  }
}

const ignore = (): void => undefined;
