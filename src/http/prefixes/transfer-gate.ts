import { PrefixdError } from "../../errors.ts";

export interface GateLimits {
  /** Transfers that hold memory at once. */
  readonly running: number;
  /** Those of one user: fewer, so that nobody's slow ones take all places. */
  readonly runningOfUser: number;
  /** Those that may wait for that, their bodies unread. */
  readonly waiting: number;
  readonly waitingOfUser: number;
  /** How long one waits at most, ms. */
  readonly waitMs: number;
  /** An upload may take so long, ms, and what its bytes so far take at `leastRate`, bytes per second; one that takes longer gives way when others wait. */
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

/** Of files: each has a piece or two in memory until the client has taken them. None gives way: what is not read is cut soon enough. */
export const DOWNLOADS: GateLimits = {
  running: 64,
  runningOfUser: 8,
  waiting: 256,
  waitingOfUser: 128,
  waitMs: 60_000,
  graceMs: Infinity,
  leastRate: Infinity,
};

/** A place, while the body of its upload is being read. */
export interface Place {
  /** `bytes`: how many have come so far. `giveWay` is called once at most, and not after `end`. */
  begin(bytes: () => number, giveWay: (error: PrefixdError) => void): void;
  end(): void;
}

interface Reading {
  readonly since: number;
  readonly bytes: () => number;
  readonly giveWay: (error: PrefixdError) => void;
}

/** What a user has at the gate. */
interface Share {
  running: number;
  readonly reading: Set<Reading>;
  /** Those that wait, in order of arrival. */
  readonly waiting: Set<() => void>;
  /** Number of the user's last entry: who has not been let in for longest comes first among equals. */
  lastEntry: number;
}

/**
 * Lets few uploads in at once; the others wait. A place goes to the user who has the fewest, whoever came first. Whoever waits for a place that others
 * have gets that of an upload that is slower than the least rate, if there is one; where nobody waits, slow ones go on.
 */
export class TransferGate {
  readonly #limits: GateLimits;
  readonly #busy: () => PrefixdError;
  readonly #shares = new Map<string, Share>();
  #running = 0;
  #waiting = 0;
  #entries = 0;
  #looking: NodeJS.Timeout | null = null;

  /** `busy`: makes the error of who gets no place. */
  constructor(limits: GateLimits, busy: () => PrefixdError = uploadsBusy) {
    this.#limits = limits;
    this.#busy = busy;
  }

  /** Throws `busy`'s error where there is no place in time. Who leaves while waiting (`signal`) makes room, and its task is not run. */
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

  /** Resolves when the upload has been let in. */
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
      const give = (): void => (leave(), reject(new PrefixdError("invalid_request", "The client has gone.")));
      const timer = setTimeout(() => (leave(), reject(this.#busy())), this.#limits.waitMs);
      signal.addEventListener("abort", give);
      share.waiting.add(enter);
      this.#waiting++;
      this.#look();
      this.#looking ??= setInterval(() => this.#look(), Math.min(1_000, this.#limits.graceMs / 4)).unref();
    });
  }

  /** Somebody waits: whether the place of another user's upload is to be had. One at a time; of who has most, the one that is latest. */
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
        `The upload came slower than ${Math.round(leastRate / 1024)} KiB/s while others waited for its place; send it again.`,
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
