import { PrefixdError } from "../errors.ts";

export interface GateLimits {
  /** Uploads that are read, and held in memory, at once. */
  readonly running: number;
  /** Those of one user: fewer, so that nobody's slow uploads take all places. */
  readonly runningOfUser: number;
  /** Those that may wait for that, their bodies unread. */
  readonly waiting: number;
  readonly waitingOfUser: number;
  /** How long one waits at most, ms. */
  readonly waitMs: number;
}

export const UPLOADS: GateLimits = { running: 4, runningOfUser: 2, waiting: 256, waitingOfUser: 128, waitMs: 60_000 };

/** Of files: each has a piece or two in memory until the client has taken them. */
export const DOWNLOADS: GateLimits = { running: 64, runningOfUser: 8, waiting: 256, waitingOfUser: 128, waitMs: 60_000 };

/** What a user has at the gate. */
interface Share {
  running: number;
  /** Those that wait, in order of arrival. */
  readonly waiting: Set<() => void>;
  /** Number of the user's last entry: who has not been let in for longest comes first among equals. */
  lastEntry: number;
}

/** Lets few uploads in at once; the others wait. A place goes to the user who has the fewest, whoever came first. */
export class UploadGate {
  readonly #limits: GateLimits;
  readonly #busy: () => PrefixdError;
  readonly #shares = new Map<string, Share>();
  #running = 0;
  #waiting = 0;
  #entries = 0;

  /** `busy`: makes the error of who gets no place. */
  constructor(limits: GateLimits, busy: () => PrefixdError = uploadsBusy) {
    this.#limits = limits;
    this.#busy = busy;
  }

  /** Throws `busy`'s error where there is no place in time. Who leaves while waiting (`signal`) makes room, and its task is not run. */
  async run<T>(user: string, signal: AbortSignal, task: () => Promise<T>): Promise<T> {
    const share = this.#shares.get(user) ?? { running: 0, waiting: new Set(), lastEntry: 0 };
    this.#shares.set(user, share);
    try {
      if (this.#hasRoom(share)) this.#enter(share);
      else await this.#turn(share, signal);
      try {
        return await task();
      } finally {
        share.running--;
        this.#running--;
        this.#letIn();
      }
    } finally {
      if (share.running === 0 && share.waiting.size === 0) this.#shares.delete(user);
    }
  }

  #hasRoom(share: Share): boolean {
    return this.#running < this.#limits.running && share.running < this.#limits.runningOfUser;
  }

  #enter(share: Share): void {
    share.running++;
    this.#running++;
    share.lastEntry = ++this.#entries;
  }

  #letIn(): void {
    let next: Share | undefined;
    for (const share of this.#shares.values()) {
      if (share.waiting.size === 0 || !this.#hasRoom(share)) continue;
      if (next === undefined || share.running < next.running || (share.running === next.running && share.lastEntry < next.lastEntry)) next = share;
    }
    const [enter] = next?.waiting ?? [];
    enter?.();
  }

  /** Resolves when the upload has been let in. */
  #turn(share: Share, signal: AbortSignal): Promise<void> {
    if (this.#waiting >= this.#limits.waiting || share.waiting.size >= this.#limits.waitingOfUser) throw this.#busy();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        this.#waiting--;
        share.waiting.delete(enter);
        clearTimeout(timer);
        signal.removeEventListener("abort", give);
      };
      const enter = (): void => {
        leave();
        this.#enter(share);
        resolve();
      };
      const give = (): void => (leave(), reject(new PrefixdError("invalid_request", "The client has gone.")));
      const timer = setTimeout(() => (leave(), reject(this.#busy())), this.#limits.waitMs);
      signal.addEventListener("abort", give);
      share.waiting.add(enter);
      this.#waiting++;
    });
  }
}

function uploadsBusy(): PrefixdError {
  return new PrefixdError("uploads_busy", "Other uploads are being read; try again.", { retryAfter: 5 });
}

export function downloadsBusy(): PrefixdError {
  return new PrefixdError("downloads_busy", "Other files are being downloaded; try again.", { retryAfter: 5 });
}
