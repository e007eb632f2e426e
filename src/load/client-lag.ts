import { Milliseconds } from "./histogram.ts";

const EVERY_MS = 5;

/** How late this process's timers fire: an overloaded client machine shows here, not as the server's latency. */
export class ClientLag {
  readonly #lag = new Milliseconds();
  #due = performance.now() + EVERY_MS;
  #timer: NodeJS.Timeout;

  constructor() {
    this.#timer = this.#arm();
  }

  #arm(): NodeJS.Timeout {
    return setTimeout(() => {
      const now = performance.now();
      this.#lag.record(now - this.#due);
      this.#due = now + EVERY_MS;
      this.#timer = this.#arm();
    }, EVERY_MS).unref();
  }

  stop(): Milliseconds {
    clearTimeout(this.#timer);
    return this.#lag;
  }
}
