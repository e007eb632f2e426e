/**
 * Processor time of the event loop's thread, per turn: other load on the machine does not affect it. Linux, or Node
 * 23.9.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import koffi from "koffi";

/** Linux's CLOCK_THREAD_CPUTIME_ID. */
const OF_THREAD = 3;

let read: (() => number) | undefined;

/**
 * Milliseconds the calling thread has run so far. Loads the library on the first call, since src/runtime must configure
 * koffi first.
 */
export function threadTime(): number {
  return (read ??= process.platform === "linux" ? linuxClock() : nodesClock())();
}

function linuxClock(): () => number {
  const getTime = koffi.load(null).func("int clock_gettime(int, void *)") as unknown as (
    id: number,
    time: BigInt64Array,
  ) => number;
  const time = new BigInt64Array(2);
  return () => {
    getTime(OF_THREAD, time);
    return Number(time[0]) * 1e3 + Number(time[1]) / 1e6;
  };
}

function nodesClock(): () => number {
  const { threadCpuUsage } = process as { threadCpuUsage?: () => { user: number; system: number } };
  if (threadCpuUsage === undefined)
    throw new Error("neither Linux nor Node 23.9: there is no telling how long a thread has run");
  return () => {
    const { user, system } = threadCpuUsage();
    return (user + system) / 1000;
  };
}

/**
 * Measures turns of the event loop by a timer of a millisecond, so that a loop which waits for the model sleeps: what is taken for a turn
 * is one, and less than a millisecond of those before it.
 */
export class TurnMeter {
  #longest = 0;
  #last = threadTime();
  #running = true;

  constructor() {
    this.#turn();
  }

  /** Milliseconds of the longest turn since the last call, including the current one so far. */
  take(): number {
    this.#measure();
    const longest = this.#longest;
    this.#longest = 0;
    return longest;
  }

  stop(): void {
    this.#running = false;
  }

  #turn(): void {
    this.#measure();
    if (this.#running) setTimeout(() => this.#turn(), 1);
  }

  #measure(): void {
    const now = threadTime();
    this.#longest = Math.max(this.#longest, now - this.#last);
    this.#last = now;
  }
}

/** Milliseconds of the longest turn during `work`. */
export async function longestTurn(work: () => Promise<unknown>): Promise<number> {
  await nextTurn();
  const meter = new TurnMeter();
  try {
    await work();
    await nextTurn();
    return meter.take();
  } finally {
    meter.stop();
  }
}

const FIXED_WORK = JSON.stringify(
  Array.from({ length: 20_000 }, (_, index) => ({ id: index, name: `name ${index}`, share: index / 7 })),
);
const PROMISED_MS = 50;
/** Of this work the machine of docs/reference/benchmarks.md does so much in 50 ms. */
const TIMES = 3;

/**
 * That machine's 50 ms in milliseconds of this one, at its current load. A faster machine is not faster at all work alike,
 * so there it is up to twice that, within the 50 ms that are promised.
 */
export function turnBudget(): number {
  const times = Array.from({ length: 9 }, () => {
    const before = threadTime();
    JSON.parse(FIXED_WORK);
    return threadTime() - before;
  });
  const scaled = TIMES * times.sort((a, b) => a - b)[4]!;
  return Math.max(scaled, Math.min(PROMISED_MS, 2 * scaled));
}
