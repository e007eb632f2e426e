import { build, type Histogram } from "hdr-histogram-js";
import type { Quantiles } from "./result.ts";

const HOUR_US = 3_600_000_000;

/**
 * A histogram of milliseconds (an HdrHistogram of microseconds up to an hour that grows as needed), to `digits`
 * significant digits.
 */
export class Milliseconds {
  readonly #histogram: Histogram;

  constructor(digits: 2 | 3 = 3) {
    this.#histogram = build({
      lowestDiscernibleValue: 1,
      highestTrackableValue: 1_000_000,
      numberOfSignificantValueDigits: digits,
      autoResize: true,
      bitBucketSize: 32,
    });
  }

  record(ms: number): void {
    this.#histogram.recordValue(Math.min(HOUR_US, Math.max(0, Math.round(ms * 1000))));
  }

  get count(): number {
    return this.#histogram.totalCount;
  }

  /** 0 when nothing was recorded. */
  at(percentile: number): number {
    return this.#histogram.totalCount === 0 ? 0 : this.#histogram.getValueAtPercentile(percentile) / 1000;
  }

  quantiles(): Quantiles {
    const histogram = this.#histogram;
    return {
      count: histogram.totalCount,
      mean: this.count === 0 ? 0 : histogram.mean / 1000,
      p50: this.at(50),
      p90: this.at(90),
      p99: this.at(99),
      p999: this.at(99.9),
      max: this.at(100),
      cdf: this.#cdf(),
    };
  }

  #cdf(): [number, number][] {
    if (this.count === 0) return [];
    const points: [number, number][] = [];
    for (const percentile of CDF_PERCENTILES) {
      const ms = this.at(percentile);
      const last = points.at(-1);
      if (last?.[0] === ms) last[1] = percentile / 100;
      else points.push([ms, percentile / 100]);
    }
    return points;
  }
}

const CDF_PERCENTILES = [...Array.from({ length: 100 }, (_, percent) => percent), 99.5, 99.9, 99.99, 100];
