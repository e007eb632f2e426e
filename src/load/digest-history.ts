/** What a prefix may have been at a time: its digest, or null for "there is none". */
export type Version = string | null;

interface Span {
  readonly version: Version;
  readonly from: number;
  to: number;
}

/**
 * The versions that a prefix may have had, by time (`performance.now()`). While a change is under way the old and the new one are
 * possible; when it has been answered only the new one; when nobody knows how it ended, both until the next one that is answered.
 */
export class DigestHistory {
  #spans: Span[];

  constructor(version: Version) {
    this.#spans = [{ version, from: -Infinity, to: Infinity }];
  }

  /** A change to `version` is about to be asked for. */
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

  /** All that it can have been at some time from `from` to `to`. */
  between(from: number, to: number): Version[] {
    return [...new Set(this.#spans.filter((span) => span.from <= to && span.to >= from).map(({ version }) => version))];
  }

  /** Forgets what ended before `time`. */
  forget(time: number): void {
    this.#spans = this.#spans.filter((span) => span.to >= time);
  }
}
