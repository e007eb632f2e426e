/** The owner of the items that share the budget. */
export interface BudgetHolder {
  /** Bytes currently held. */
  held(): number;
  /** Drops the least useful item. */
  evict(): void;
}

export interface Reservation extends Disposable {
  /** False if it exceeds the whole budget, so it must not be kept afterwards. */
  readonly fits: boolean;
}

interface Waiter {
  readonly bytes: number;
  readonly start: () => void;
}

/**
 * Reserves bytes for items being loaded: together with those held they never exceed the limit. Loads wait for room, in
 * order. One that exceeds the limit runs alone, with no other reservation.
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

  /** Resolves when there is room. Releasing twice is harmless. */
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
        // After the releasing code has stored what it loaded.
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
