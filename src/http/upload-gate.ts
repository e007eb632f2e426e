import { PrefixdError } from "../errors.ts";

export interface GateLimits {
  /** Uploads that are read, and held in memory, at once. */
  readonly running: number;
  /** Those that may wait for that, their bodies unread. */
  readonly waiting: number;
  /** How long one waits at most, ms. */
  readonly waitMs: number;
}

export const UPLOADS: GateLimits = { running: 4, waiting: 256, waitMs: 60_000 };

/** Lets few uploads in at once; the others wait their turn in order of arrival. */
export class UploadGate {
  readonly #limits: GateLimits;
  #free: number;
  readonly #waiting = new Set<() => void>();

  constructor(limits: GateLimits) {
    this.#limits = limits;
    this.#free = limits.running;
  }

  /** Throws `uploads_busy` where there is no place in time. Who leaves while waiting (`signal`) makes room, and its task is not run. */
  async run<T>(signal: AbortSignal, task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await this.#turn(signal);
    try {
      return await task();
    } finally {
      const [next] = this.#waiting;
      if (next === undefined) this.#free++;
      else next();
    }
  }

  /** Resolves with the place of one that has ended. */
  #turn(signal: AbortSignal): Promise<void> {
    if (this.#waiting.size >= this.#limits.waiting) throw busy();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#waiting.delete(enter);
        clearTimeout(timer);
        signal.removeEventListener("abort", give);
      };
      const enter = (): void => (leave(), resolve());
      const give = (): void => (leave(), reject(new PrefixdError("invalid_request", "The upload was given up.")));
      const timer = setTimeout(() => (leave(), reject(busy())), this.#limits.waitMs);
      signal.addEventListener("abort", give);
      this.#waiting.add(enter);
    });
  }
}

function busy(): PrefixdError {
  return new PrefixdError("uploads_busy", "Other uploads are being read; try again.", { retryAfter: 5 });
}
