import type { SseStream } from "../sse.ts";

/** One step's events for a stream, and at the end the last ones. */
type Step = Generator<string, readonly string[] | null>;

/**
 * Queues steps with more than one event's worth of data, and the steps after them. Each event is built in its own turn
 * of the event loop, once the reader has taken the one before.
 */
export class EventQueue {
  readonly #sse: SseStream;
  readonly #onLast: () => void;
  readonly #onError: (error: unknown) => void;
  readonly #steps: Step[] = [];

  constructor(sse: SseStream, onLast: () => void, onError: (error: unknown) => void) {
    this.#sse = sse;
    this.#onLast = onLast;
    this.#onError = onError;
  }

  get isEmpty(): boolean {
    return this.#steps.length === 0;
  }

  add(step: Step): void {
    if (this.#steps.push(step) === 1) this.#write().catch(this.#onError);
  }

  async #write(): Promise<void> {
    for (let step = this.#steps[0]; step !== undefined; step = this.#steps[0]) {
      const { value, done } = step.next();
      if (done !== true) {
        if (!(await this.#sse.paced(value))) return;
        continue;
      }
      this.#steps.shift();
      if (value === null) continue;
      this.#sse.last(...value);
      this.#onLast();
    }
  }
}
