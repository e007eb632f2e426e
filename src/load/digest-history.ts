/** A prefix's possible state: its digest, or null if it does not exist. */
export type Version = string | null;

interface Span {
  readonly version: Version;
  readonly from: number;
  to: number;
}

/**
 * The versions a prefix may have had, by time (`performance.now()`). During a change both the old and the new version
 * are possible; once it is answered, only the new one; if its outcome is unknown, both until the next answered change.
 */
export class DigestHistory {
  #spans: Span[];

  constructor(version: Version) {
    this.#spans = [{ version, from: -Infinity, to: Infinity }];
  }

  /** Call before requesting a change to `version`. */
  begin(version: Version): { done(): void; refused(): void } {
    const span: Span = { version, from: performance.now(), to: Infinity };
    this.#spans.push(span);
    return {
      done: () => {
        const now = performance.now();
        for (const other of this.#spans) if (other !== span) other.to = Math.min(other.to, now);
      },
      refused: () => {
        span.to = performance.now();
      },
    };
  }

  /** All versions possible at some time in [from, to]. */
  between(from: number, to: number): Version[] {
    return [...new Set(this.#spans.filter((span) => span.from <= to && span.to >= from).map(({ version }) => version))];
  }

  /** Drops versions that ended before `time`. */
  forget(time: number): void {
    this.#spans = this.#spans.filter((span) => span.to >= time);
  }
}
