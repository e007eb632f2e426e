/** Listeners for changes of users. */
export class ChangeListeners {
  readonly #listeners = new Set<(user: string) => void>();

  add(listener: (user: string) => void): () => void {
    // A wrapper, so that registering a function twice counts twice.
    const entry = (user: string): void => listener(user);
    this.#listeners.add(entry);
    return () => void this.#listeners.delete(entry);
  }

  tell(user: string): void {
    for (const listener of this.#listeners) listener(user);
  }

  /** Notifies once the change has settled, even on error: the store may have applied it and failed to report that. */
  async after<T>(user: string, change: Promise<T>): Promise<T> {
    try {
      return await change;
    } finally {
      this.tell(user);
    }
  }

  clear(): void {
    this.#listeners.clear();
  }
}
