import type { Socket } from "node:net";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";

/** Polling interval in milliseconds. */
const LOOK_MS = 5;

/** Tracks incoming traffic, for a drain, which ends when there is none. */
export class Traffic {
  #open = 0;
  /** Counts new connections, and requests that begin or end. */
  #events = 0;
  /** Connections without a request so far. */
  readonly #unheard = new Set<Socket>();

  /** Number of requests whose response has not been sent yet. */
  get open(): number {
    return this.#open;
  }

  connected(socket: Socket): void {
    this.#events++;
    this.#unheard.add(socket);
    socket.once("close", () => this.#unheard.delete(socket));
  }

  begin(socket: Socket): void {
    this.#open++;
    this.#events++;
    this.#unheard.delete(socket);
  }

  end(): void {
    this.#open--;
    this.#events++;
  }

  /** Resolves when no request is open, or after `ms` milliseconds. */
  idle(ms: number): Promise<void> {
    return within(ms, () => this.#open === 0);
  }

  /** Resolves when a request has begun on every open connection, or after `ms` milliseconds. */
  heard(ms: number): Promise<void> {
    return within(ms, () => this.#unheard.size === 0);
  }

  /**
   * Resolves after `quietMs` milliseconds in which nothing began or ended, after `limitMs` at the latest: right after
   * the event loop has accepted all connections the kernel had for it.
   */
  async quiet(quietMs: number, limitMs: number): Promise<void> {
    const start = performance.now();
    let [seen, since] = [this.#events, start];
    for (let now = start; now - since < quietMs && now - start < limitMs; now = performance.now()) {
      await sleep(LOOK_MS);
      // After this turn's accepts; the awaiting code continues before anything else.
      await nextTurn();
      if (this.#events !== seen) [seen, since] = [this.#events, performance.now()];
    }
  }
}

async function within(ms: number, condition: () => boolean): Promise<void> {
  const until = performance.now() + ms;
  while (!condition() && performance.now() < until) await sleep(LOOK_MS);
}
