import { PrefixdError } from "../../errors.ts";

export interface GateLimits {
  /** Concurrent transfers, each of which holds memory. */
  readonly running: number;
  /** Concurrent transfers of one user: fewer, so that one user's slow ones cannot take all places. */
  readonly runningOfUser: number;
  /** Transfers that may wait, with their bodies unread. */
  readonly waiting: number;
  readonly waitingOfUser: number;
  /** Longest wait, ms. */
  readonly waitMs: number;
  /**
   * Time an upload may take: `graceMs` milliseconds plus what its bytes so far take at `leastRate` bytes per second. A
   * slower one gives way when others wait.
   */
  readonly graceMs: number;
  readonly leastRate: number;
}

export const UPLOADS: GateLimits = {
  running: 4,
  runningOfUser: 2,
  waiting: 256,
  waitingOfUser: 128,
  waitMs: 60_000,
  graceMs: 10_000,
  leastRate: 128 * 1024,
};

/** Limits of downloads: each holds a chunk or two in memory. None gives way: unread ones are cut soon enough. */
export const DOWNLOADS: GateLimits = {
  running: 64,
  runningOfUser: 8,
  waiting: 256,
  waitingOfUser: 128,
  waitMs: 60_000,
  graceMs: Infinity,
  leastRate: Infinity,
};

/** An upload's place, while its body is being read. */
export interface Place {
  /**
   * @param bytes number of bytes received so far
   * @param giveWay called at most once, and not after `end`
   */
  begin(bytes: () => number, giveWay: (error: PrefixdError) => void): void;
  end(): void;
}

interface Reading {
  readonly since: number;
  readonly bytes: () => number;
  readonly giveWay: (error: PrefixdError) => void;
}

/** A user's transfers. */
interface Share {
  running: number;
  readonly reading: Set<Reading>;
  /** Waiting transfers, in order of arrival. */
  readonly waiting: Set<() => void>;
  /** Sequence number of the user's last admission: among equals, the one admitted longest ago goes first. */
  lastEntry: number;
}

/**
 * Admits a few uploads at a time; the others wait. A free place goes to the user with the fewest, regardless of
 * arrival. When others wait for a place, an upload slower than the least rate loses its own; when nobody waits, slow
 * ones go on.
 */
export class TransferGate {
  readonly #limits: GateLimits;
  readonly #busy: () => PrefixdError;
  readonly #shares = new Map<string, Share>();
  #running = 0;
  #waiting = 0;
  #entries = 0;
  #looking: NodeJS.Timeout | null = null;

  /** @param busy builds the error for a transfer that gets no place */
  constructor(limits: GateLimits, busy: () => PrefixdError = uploadsBusy) {
    this.#limits = limits;
    this.#busy = busy;
  }

  /**
   * Runs `task` once there is a place; throws `busy`'s error if there is none in time. If `signal` aborts while
   * waiting, the task does not run.
   */
  async run<T>(user: string, signal: AbortSignal, task: (place: Place) => Promise<T>): Promise<T> {
    const share = this.#shares.get(user) ?? { running: 0, reading: new Set(), waiting: new Set(), lastEntry: 0 };
    this.#shares.set(user, share);
    try {
      if (this.#hasRoom(share)) this.#enter(share);
      else await this.#turn(share, signal);
      const place = placeOf(share);
      try {
        return await task(place);
      } finally {
        place.end();
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
      if (
        next === undefined ||
        share.running < next.running ||
        (share.running === next.running && share.lastEntry < next.lastEntry)
      )
        next = share;
    }
    const [enter] = next?.waiting ?? [];
    enter?.();
  }

  /** Resolves when the upload is admitted. */
  #turn(share: Share, signal: AbortSignal): Promise<void> {
    if (this.#waiting >= this.#limits.waiting || share.waiting.size >= this.#limits.waitingOfUser) throw this.#busy();
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        if (--this.#waiting === 0) this.#stopLooking();
        share.waiting.delete(enter);
        clearTimeout(timer);
        signal.removeEventListener("abort", give);
      };
      const enter = (): void => {
        leave();
        this.#enter(share);
        resolve();
      };
      const give = (): void => (leave(), reject(new PrefixdError("invalid_request", "The client has disconnected.")));
      const timer = setTimeout(() => (leave(), reject(this.#busy())), this.#limits.waitMs);
      signal.addEventListener("abort", give);
      share.waiting.add(enter);
      this.#waiting++;
      this.#look();
      this.#looking ??= setInterval(() => this.#look(), Math.min(1_000, this.#limits.graceMs / 4)).unref();
    });
  }

  /**
   * While others wait, takes the place of at most one slow upload of another user: the latest of the user with the
   * most.
   */
  #look(): void {
    const { running, runningOfUser, graceMs, leastRate } = this.#limits;
    const waits = [...this.#shares.values()].filter((share) => share.waiting.size > 0 && share.running < runningOfUser);
    if (waits.length === 0 || this.#running < running) return;
    const now = performance.now();
    let latest: { readonly share: Share; readonly reading: Reading; readonly late: number } | null = null;
    for (const share of this.#shares.values()) {
      if (waits.every((one) => one === share)) continue;
      for (const reading of share.reading) {
        const late = now - reading.since - graceMs - (1000 * reading.bytes()) / leastRate;
        if (
          late > 0 &&
          (latest === null ||
            share.running > latest.share.running ||
            (share.running === latest.share.running && late > latest.late))
        )
          latest = { share, reading, late };
      }
    }
    if (latest === null) return;
    latest.share.reading.delete(latest.reading);
    latest.reading.giveWay(
      new PrefixdError(
        "upload_stalled",
        `The upload was slower than ${Math.round(leastRate / 1024)} KiB/s while others waited for its place; send it again.`,
        { retryAfter: 5 },
      ),
    );
  }

  #stopLooking(): void {
    if (this.#looking !== null) clearInterval(this.#looking);
    this.#looking = null;
  }
}

function placeOf({ reading }: Share): Place {
  let own: Reading | null = null;
  return {
    begin: (bytes, giveWay) => void reading.add((own = { since: performance.now(), bytes, giveWay })),
    end: () => void (own !== null && reading.delete(own)),
  };
}

function uploadsBusy(): PrefixdError {
  return new PrefixdError("uploads_busy", "Other uploads are being read; try again.", { retryAfter: 5 });
}

export function downloadsBusy(): PrefixdError {
  return new PrefixdError("downloads_busy", "Other files are being downloaded; try again.", { retryAfter: 5 });
}
