/** What the budget shares its bytes with. */
export interface BudgetHolder {
  /** Bytes held. */
  held(): number;
  /** Lets go of the least useful item. */
  evict(): void;
}

export interface Reservation extends Disposable {
  /** false: more than the whole budget, so it must not be kept afterwards. */
  readonly fits: boolean;
}

interface Waiter {
  readonly bytes: number;
  readonly start: () => void;
}

/**
 * Bytes for things being loaded: with those held they never exceed the limit. Loads wait for room, in order. One larger than
 * the limit goes alone, beside an empty budget of reservations.
 */
export class ByteBudget {
  readonly #limit: number;
  readonly #holder: BudgetHolder;
  readonly #waiting: Waiter[] = [];
  #reserved = 0;
  #oversized = false;

  constructor(limit: number, holder: BudgetHolder) {
    this.#limit = limit;
    this.#holder = holder;
  }

  get reserved(): number {
    return this.#reserved;
  }

  /** Resolves when there is room; releasing twice does no harm. */
  async reserve(bytes: number): Promise<Reservation> {
    const fits = bytes <= this.#limit;
    await new Promise<void>((start) => {
      this.#waiting.push({ bytes, start });
      this.#admit();
    });
    let released = false;
    return {
      fits,
      [Symbol.dispose]: () => {
        if (released) return;
        released = true;
        if (fits) this.#reserved -= bytes;
        else this.#oversized = false;
        // After who releases has kept what it loaded.
        queueMicrotask(() => this.#admit());
      },
    };
  }

  #admit(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (next.bytes > this.#limit) {
        if (this.#oversized) return;
        this.#oversized = true;
      } else {
        if (this.#reserved + next.bytes > this.#limit) return;
        this.#reserved += next.bytes;
        while (this.#reserved + this.#holder.held() > this.#limit) this.#holder.evict();
      }
      this.#waiting.shift();
      next.start();
    }
  }
}
