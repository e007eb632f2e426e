import type { Metric, Registry } from "prom-client";

/**
 * A Prometheus histogram without labels, cheap enough to observe every token: prom-client's takes as long for one value
 * as the sampler takes for a token.
 */
export class TallyHistogram {
  readonly name: string;
  readonly #help: string;
  /** Upper bounds, ascending. */
  readonly #bounds: readonly number[];
  /** Values per bucket; the last bucket is above all bounds. */
  readonly #counts: Float64Array;
  #sum = 0;

  constructor({
    name,
    help,
    buckets,
    registry,
  }: { name: string; help: string; buckets: readonly number[]; registry: Registry }) {
    this.name = name;
    this.#help = help;
    this.#bounds = buckets;
    this.#counts = new Float64Array(buckets.length + 1);
    // A registry uses only a metric's name and `get`.
    registry.registerMetric(this as unknown as Metric);
  }

  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.#bounds.length && value > this.#bounds[bucket]!) bucket++;
    this.#counts[bucket]!++;
    this.#sum += value;
  }

  /** Returns what prom-client's histograms do. */
  get(): Promise<object> {
    const { name } = this;
    let count = 0;
    const values: object[] = [...this.#bounds, "+Inf"].map((le, bucket) => {
      count += this.#counts[bucket]!;
      return { metricName: `${name}_bucket`, labels: { le }, value: count };
    });
    values.push(
      { metricName: `${name}_sum`, labels: {}, value: this.#sum },
      { metricName: `${name}_count`, labels: {}, value: count },
    );
    return Promise.resolve({ name, help: this.#help, type: "histogram", values, aggregator: "sum" });
  }
}
