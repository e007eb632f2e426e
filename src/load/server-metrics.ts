import { LoadError, problemCode, type Target } from "./http.ts";
import type { ServerResult, ServerSample } from "./result.ts";

const MIB = 1024 ** 2;
/** Minimum duration for a slope: memory grows while caches fill and the heap finds its size. */
const LEAST_SLOPE_S = 30;

/** Parses Prometheus' text format to a map from `name` or `name{labels}` to the value, without comments. */
export function parseMetrics(text: string): Map<string, number> {
  const out = new Map<string, number>();
  for (const line of text.split("\n")) {
    const at = line.lastIndexOf(" ");
    if (at > 0 && !line.startsWith("#")) out.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return out;
}

/** Throws LoadError with the error's code as message if the server refuses. */
export async function readMetrics(target: Target, key: string | null): Promise<Map<string, number>> {
  const { status, text } = await target.call("GET", "/metrics", key);
  if (status !== 200) throw new LoadError(problemCode(status, text));
  return parseMetrics(text);
}

/**
 * Reads one server's `/metrics` periodically. Behind a balancer each reading is some replica's, so give the replicas'
 * own addresses.
 */
export class ServerWatch {
  readonly #target: Target;
  readonly #key: string | null;
  readonly #samples: ServerSample[] = [];
  #problem: string | null = null;
  #first: Map<string, number> | null = null;
  #last: Map<string, number> | null = null;
  #timer: NodeJS.Timeout | undefined;
  #reading: Promise<void> = Promise.resolve();
  #startedAt = 0;

  constructor(target: Target, key: string | null) {
    this.#target = target;
    this.#key = key;
  }

  async start(everyMs: number): Promise<void> {
    this.#startedAt = performance.now();
    await this.#read();
    if (this.#problem !== null) return;
    this.#timer = setInterval(() => (this.#reading = this.#read()), everyMs).unref();
  }

  async #read(): Promise<void> {
    try {
      const metrics = await readMetrics(this.#target, this.#key);
      this.#first ??= metrics;
      this.#last = metrics;
      const at_s = (performance.now() - this.#startedAt) / 1000;
      const value = (name: string): number => metrics.get(name) ?? 0;
      this.#samples.push({
        at_s,
        rss_mib: value("process_resident_memory_bytes") / MIB,
        in_use_mib: memoryInUse(metrics) / MIB,
        queue_depth: value("prefixd_queue_depth"),
        running: value("prefixd_running_sequences"),
      });
    } catch (error) {
      this.#problem ??= error instanceof Error ? error.message : String(error);
    }
  }

  async stop(): Promise<Omit<ServerResult, "at_rest">> {
    clearInterval(this.#timer);
    await this.#reading;
    if (this.#problem === null) await this.#read();
    const half = this.#samples.slice(Math.floor(this.#samples.length / 2));
    const spanned = (half.at(-1)?.at_s ?? 0) - (half[0]?.at_s ?? 0);
    const slope = spanned < LEAST_SLOPE_S ? null : slopeOf(half.map(({ at_s, in_use_mib }) => [at_s, in_use_mib])) * 60;
    return {
      url: this.#target.url,
      problem: this.#problem,
      samples: this.#samples,
      queue: queueTimes(this.#first, this.#last),
      memory_slope_mib_per_min: slope,
    };
  }
}

/**
 * Private memory without the free part of V8's heap and without its young generation, in bytes: V8 grows and shrinks
 * that by tens of MiB as load changes. RSS, if the server does not tell private memory.
 */
function memoryInUse(metrics: ReadonlyMap<string, number>): number {
  const value = (name: string): number => metrics.get(name) ?? 0;
  const resident = metrics.get("prefixd_private_memory_bytes") ?? value("process_resident_memory_bytes");
  const free = value("nodejs_heap_size_total_bytes") - value("nodejs_heap_size_used_bytes");
  return resident - free - value('nodejs_heap_space_size_used_bytes{space="new"}');
}

/** `prefixd_queue_seconds` between two readings, in milliseconds. */
export function queueTimes(first: Map<string, number> | null, last: Map<string, number> | null): ServerResult["queue"] {
  const name = "prefixd_queue_seconds";
  const grown = (metric: string): number => (last?.get(metric) ?? 0) - (first?.get(metric) ?? 0);
  const count = grown(`${name}_count`);
  if (count <= 0) return null;
  const buckets = [...(last?.keys() ?? [])].flatMap((metric) => {
    const bound = /^prefixd_queue_seconds_bucket\{le="([^"]+)"\}$/.exec(metric)?.[1];
    return bound === undefined
      ? []
      : [{ ms: bound === "+Inf" ? Infinity : Number(bound) * 1000, count: grown(metric) }];
  });
  const quantile = (share: number): number | null => {
    const ms = buckets.sort((a, b) => a.ms - b.ms).find((bucket) => bucket.count >= share * count)?.ms ?? Infinity;
    return Number.isFinite(ms) ? ms : null;
  };
  return { count, mean: (grown(`${name}_sum`) * 1000) / count, p50: quantile(0.5), p99: quantile(0.99) };
}

/** Slope of the least-squares line through points (x, y). */
export function slopeOf(points: readonly (readonly [number, number])[]): number {
  const meanX = points.reduce((sum, [x]) => sum + x, 0) / points.length;
  const meanY = points.reduce((sum, [, y]) => sum + y, 0) / points.length;
  const spread = points.reduce((sum, [x]) => sum + (x - meanX) ** 2, 0);
  return spread === 0 ? 0 : points.reduce((sum, [x, y]) => sum + (x - meanX) * (y - meanY), 0) / spread;
}
