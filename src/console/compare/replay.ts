/** An ended comparison at an earlier moment: what had arrived by then. */
export const SPEEDS = { "1": "Real speed", "20": "20× slower" } as const;
export type Speed = keyof typeof SPEEDS;

export class Replay {
  /** Milliseconds after the requests left; null: all is shown. */
  moment: number | null = null;
  speed: Speed = "20";
  readonly #changed: () => void;
  #frame: number | null = null;

  constructor(changed: () => void) {
    this.#changed = changed;
  }

  get playing(): boolean {
    return this.#frame !== null;
  }

  setSpeed(speed: Speed): void {
    this.speed = speed;
    this.#changed();
  }

  /** Stands still there. */
  show(moment: number | null): void {
    this.#stop();
    this.moment = moment;
    this.#changed();
  }

  /** From where it stands, or from the beginning. @param length milliseconds until the last token */
  play(length: number): void {
    this.#stop();
    let before = performance.now();
    this.moment = this.moment === null || this.moment >= length ? 0 : this.moment;
    const step = (now: number): void => {
      this.moment! += Math.max(0, now - before) / Number(this.speed);
      before = now;
      const over = this.moment! >= length;
      if (over) this.moment = null;
      this.#frame = over ? null : requestAnimationFrame(step);
      this.#changed();
    };
    this.#frame = requestAnimationFrame(step);
    this.#changed();
  }

  #stop(): void {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
  }
}
