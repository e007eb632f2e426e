/** Opened resources, released in reverse order. Node 20 has no AsyncDisposableStack. */
export class Resources {
  readonly #releases: (() => void | Promise<void>)[] = [];

  /** Runs `open`; if it fails, runs the releases it has deferred so far. */
  static async openAll<T>(open: (resources: Resources) => Promise<T>): Promise<T> {
    const resources = new Resources();
    try {
      return await open(resources);
    } catch (error) {
      await resources.release();
      throw error;
    }
  }

  defer(release: () => void | Promise<void>): void {
    this.#releases.push(release);
  }

  async release(): Promise<void> {
    for (const release of this.#releases.splice(0).reverse()) await release();
  }
}
