import type { Socket } from "node:net";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";

/** Milliseconds between two looks. */
const LOOK_MS = 5;

/** What comes in: for a drain, which ends when nothing does any more. */
export class Traffic {
  #open = 0;
  /** Grows with every connection and with every request that begins or ends. */
  #events = 0;
  /** Connections on which no request has begun yet. */
  readonly #unheard = new Set<Socket>();

  /** Requests whose answer has not left yet. */
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
   * Resolves when nothing has begun or ended for `quietMs` milliseconds, after `limitMs` at the latest: right after the event loop has
   * accepted all connections that the kernel had for it.
   */
  async quiet(quietMs: number, limitMs: number): Promise<void> {
    const start = performance.now();
    let [seen, since] = [this.#events, start];
    for (let now = start; now - since < quietMs && now - start < limitMs; now = performance.now()) {
      await sleep(LOOK_MS);
      // Behind the turn's accepts; whoever awaits this goes on before anything else does.
      await nextTurn();
      if (this.#events !== seen) [seen, since] = [this.#events, performance.now()];
    }
  }
}

async function within(ms: number, condition: () => boolean): Promise<void> {
  const until = performance.now() + ms;
  while (!condition() && performance.now() < until) await sleep(LOOK_MS);
}
