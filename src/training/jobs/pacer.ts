import { setTimeout as sleep } from "node:timers/promises";

/** Longest wait until busyness is looked at again, in milliseconds. */
const LOOK_MS = 20;

/**
 * Lets training run for a share of the time while the server generates, and all the time while it does not: a token that
 * comes during an update is slower, so updates must be few among tokens.
 */
export class Pacer {
  readonly #share: number;
  readonly #now: () => number;
  readonly #sleep: (ms: number) => Promise<unknown>;
  busy = false;

  /** @param share above 0, up to 1 */
  constructor(
    share: number,
    now: () => number = () => performance.now(),
    wait: (ms: number) => Promise<unknown> = (ms) => sleep(ms),
  ) {
    [this.#share, this.#now, this.#sleep] = [share, now, wait];
  }

  /** Waits after an update of `spentMs`, until the server is idle or the update is no more than its share of the time. */
  async rest(spentMs: number, signal: AbortSignal): Promise<void> {
    const until = this.#now() + spentMs * (1 / this.#share - 1);
    while (this.busy && !signal.aborted && this.#now() < until)
      await this.#sleep(Math.min(LOOK_MS, until - this.#now()));
  }
}
