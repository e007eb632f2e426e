import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from "prom-client";
import { privateMemory, readSystemFile } from "../system-files.ts";
import type { EngineObserver, EngineStats, PrefixCacheStats, StepPhase } from "./engine-observer.ts";
import type { ListenerCounts } from "./event-listeners.ts";
import { LATENCY, METRICS, type MetricSpec, type NameOf } from "./metric-specs.ts";
import { combinations, KNOWN_VALUES } from "./known-values.ts";
import { TallyHistogram } from "./tally.ts";
import { totalsOf, type Totals } from "./totals.ts";
import { VllmGauges, type VllmOptions } from "./vllm-gauges.ts";

export interface RequestTokens {
  readonly prefix: number;
  readonly prompt: number;
  readonly completion: number;
}

export interface MetricsSources {
  readonly engine: () => EngineStats;
  readonly prefixCache: () => PrefixCacheStats;
  /** Of compiled constraints; absent: none are offered. */
  readonly constraintCache?: () => PrefixCacheStats;
  /** Absent: nothing is trained here. */
  readonly training?: () => Promise<{ readonly queued: number; readonly running: number }>;
  /** Bytes copied to and from the device since the start. */
  readonly transfers: () => { readonly up: number; readonly down: number };
  /** null if the device captures no graphs. */
  readonly stepSizes: () => { readonly captured: number; readonly eager: readonly unknown[] } | null;
  /** Whether this replica holds its lease. */
  readonly mayServe?: () => boolean;
  /** null if the model runs in host memory. */
  readonly prefixBank: () => {
    readonly entries: number;
    readonly bytes: number;
    readonly hits: number;
    readonly misses: number;
  } | null;
}

export interface ConnectionCounts {
  readonly open: number;
  readonly listeners: ListenerCounts;
}

/** Uses its own registry, so that several servers in one process (tests) do not share counters. */
export class Metrics implements EngineObserver {
  readonly #registry = new Registry();
  readonly #counters = new Map<string, Counter>();
  readonly #gauges = new Map<string, Gauge>();
  readonly #histograms = new Map<string, Histogram>();
  readonly #interToken: TallyHistogram;
  #sources: MetricsSources | undefined;
  #vllm: VllmGauges | undefined;
  #connections: (() => ConnectionCounts) | undefined;
  #httpWorkers: (() => number) | undefined;

  /**
   * @param options `processMetrics`: also the process's CPU, memory, GC and event-loop lag, by a monitor that runs
   * until `close()`
   */
  constructor(options: { processMetrics: boolean } = { processMetrics: true }) {
    const interToken = "prefixd_inter_token_seconds";
    this.#interToken = new TallyHistogram({ name: interToken, ...METRICS[interToken], registry: this.#registry });
    for (const [name, spec] of Object.entries<MetricSpec>(METRICS)) {
      if (name === interToken) continue;
      const base = { name, help: spec.help, labelNames: [...(spec.labels ?? [])], registers: [this.#registry] };
      if (spec.type === "counter") this.#counters.set(name, new Counter(base));
      else if (spec.type === "gauge") this.#gauges.set(name, new Gauge(base));
      else this.#histograms.set(name, new Histogram({ ...base, buckets: [...(spec.buckets ?? LATENCY)] }));
    }
    this.#expectKnownValues();
    if (!options.processMetrics) return;
    collectDefaultMetrics({ register: this.#registry });
    // Sums of gauges, with the suffix of counters: `promtool check metrics` refuses them.
    for (const kind of ["handles", "requests", "resources"])
      this.#registry.removeSingleMetric(`nodejs_active_${kind}_total`);
  }

  /** From now on `/metrics` has the engine's state under vLLM's names, too. */
  alsoAsVllm(options: VllmOptions): void {
    this.#vllm = new VllmGauges(this.#registry, options);
  }

  /** Requests to these routes count from 0, so that the first one is an increase. */
  expectRoutes(routes: readonly { readonly method: string; readonly url: string }[]): void {
    for (const { method, url: route } of routes)
      if (method !== "HEAD")
        for (const status of ["2xx", "4xx", "5xx", "aborted"])
          this.#counter("prefixd_http_requests_total").inc({ method, route, status }, 0);
  }

  /** The same for operations of the store. */
  expectStoreOperations(operations: readonly string[]): void {
    for (const op of operations) this.#counter("prefixd_store_errors_total").inc({ op }, 0);
  }

  /**
   * Sets what the gauges read at each scrape; they are 0 until then, because the engine is created after its observer.
   */
  watch(sources: MetricsSources): void {
    this.#sources = sources;
  }

  /** Tells the scraper who answers. */
  replica(name: string, version: string): void {
    this.#gauge("prefixd_replica_info").set({ replica: name, version }, 1);
  }

  /** Sets what `prefixd_connections` and `prefixd_event_listeners` read at each scrape. */
  watchConnections(count: () => ConnectionCounts): void {
    this.#connections = count;
  }

  /** Sets what `prefixd_http_workers` reads at each scrape. */
  httpWorkers(count: () => number): void {
    this.#httpWorkers = count;
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Prometheus' text format. */
  async render(): Promise<string> {
    if (this.#sources) {
      const engine = this.#sources.engine();
      this.#gauge("prefixd_queue_depth").set(engine.queued);
      this.#gauge("prefixd_folds").set(engine.folds);
      this.#gauge("prefixd_queue_limit").set(engine.maxQueue);
      this.#gauge("prefixd_running_sequences").set(engine.running);
      this.#gauge("prefixd_running_requests").set(engine.runningRequests);
      this.#gauge("prefixd_slots").set(engine.slots);
      const cache = this.#sources.prefixCache();
      this.#gauge("prefixd_prefix_cache_bytes").set(cache.bytes);
      this.#gauge("prefixd_prefix_cache_entries").set(cache.entries);
      this.#setCounter("prefixd_prefix_cache_hits_total", cache.hits);
      this.#setCounter("prefixd_prefix_cache_misses_total", cache.misses);
      this.#renderConstraints(this.#sources);
      await this.#renderTraining(this.#sources);
      this.#renderDevice(this.#sources);
      this.#gauge("prefixd_lease_held").set(this.#sources.mayServe?.() === false ? 0 : 1);
      this.#vllm?.set(engine);
    }
    this.#gauge("prefixd_private_memory_bytes").set(
      privateMemory(readSystemFile("/proc/self/status")) ?? process.memoryUsage.rss(),
    );
    this.#gauge("prefixd_http_workers").set(this.#httpWorkers?.() ?? 0);
    if (this.#connections) {
      const { open, listeners } = this.#connections();
      this.#gauge("prefixd_connections").set(open);
      for (const on of ["process", "server", "connection"] as const)
        this.#gauge("prefixd_event_listeners").set({ on }, listeners[on]);
    }
    return this.#registry.metrics();
  }

  /** What the live feed tells of the metrics. */
  totals(): Promise<Totals> {
    return totalsOf(this.#registry, this.#sources?.prefixCache() ?? { hits: 0, misses: 0 });
  }

  step(phase: StepPhase, rows: number, tokens: number, seconds: number): void {
    this.#histogram("prefixd_batch_size").observe({ phase }, rows);
    this.#histogram("prefixd_step_seconds").observe({ phase }, seconds);
    this.#counter("prefixd_step_tokens_total").inc({ phase }, tokens);
  }

  queued(seconds: number): void {
    this.#histogram("prefixd_queue_seconds").observe(seconds);
  }

  firstToken(seconds: number): void {
    this.#histogram("prefixd_ttft_seconds").observe(seconds);
  }

  interToken(seconds: number): void {
    this.#interToken.observe(seconds);
  }

  constraintWork(seconds: number): void {
    this.#histogram("prefixd_constraint_mask_seconds").observe(seconds);
  }

  constraintCompiled(seconds: number): void {
    this.#histogram("prefixd_constraint_compile_seconds").observe(seconds);
  }

  constraintRefused(reason: string): void {
    this.#counter("prefixd_constraint_refusals_total").inc({ reason });
  }

  trainingEnded(outcome: "succeeded" | "failed" | "cancelled"): void {
    this.#counter("prefixd_training_jobs_total").inc({ outcome });
  }

  trainedOn(tokens: number): void {
    this.#counter("prefixd_training_tokens_total").inc(tokens);
  }

  finished(outcome: string): void {
    this.#counter("prefixd_sequences_total").inc({ outcome });
  }

  /** One generate request ended. `seconds` and `tokens` are absent if it was refused before it reached the engine. */
  request(outcome: string, seconds?: number, tokens?: RequestTokens): void {
    this.#counter("prefixd_requests_total").inc({ outcome });
    if (seconds !== undefined) this.#histogram("prefixd_request_seconds").observe(seconds);
    if (tokens)
      for (const kind of ["prefix", "prompt", "completion"] as const)
        this.#counter("prefixd_tokens_total").inc({ kind }, tokens[kind]);
  }

  /**
   * @param route the route's pattern
   * @param status 0 if the client left before the answer
   */
  http(method: string, route: string, status: number, seconds: number): void {
    const known = /^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS)$/.test(method) ? method : "OTHER";
    this.#counter("prefixd_http_requests_total").inc({
      method: known,
      route,
      status: status === 0 ? "aborted" : `${Math.floor(status / 100)}xx`,
    });
    this.#histogram("prefixd_http_request_seconds").observe({ method: known, route }, seconds);
  }

  connectionCut(reason: "too_many" | "not_sending" | "not_reading"): void {
    this.#counter("prefixd_connections_cut_total").inc({ reason });
  }

  httpWorkerEnded(): void {
    this.#counter("prefixd_http_workers_ended_total").inc();
  }

  storeError(op: string): void {
    this.#counter("prefixd_store_errors_total").inc({ op });
  }

  close(): void {
    this.#registry.clear();
  }

  /** Series of all label values that are known exist from the start: what appears with its first event hides it from `rate`. */
  #expectKnownValues(): void {
    for (const [name, labels] of Object.entries(KNOWN_VALUES))
      for (const values of combinations(labels)) {
        this.#counters.get(name)?.inc(values, 0);
        this.#histograms.get(name)?.zero(values);
        this.#gauges.get(name)?.set(values, 0);
      }
  }

  async #renderTraining({ training }: MetricsSources): Promise<void> {
    // While the store is away, the last numbers stay.
    const jobs = await (training?.() ?? Promise.resolve({ queued: 0, running: 0 })).catch(() => null);
    if (jobs === null) return;
    for (const state of ["queued", "running"] as const)
      this.#gauge("prefixd_training_jobs").set({ state }, jobs[state]);
  }

  #renderConstraints({ constraintCache }: MetricsSources): void {
    if (constraintCache === undefined) return;
    const { hits, misses, bytes, entries } = constraintCache();
    this.#setCounter("prefixd_constraint_cache_hits_total", hits);
    this.#setCounter("prefixd_constraint_cache_misses_total", misses);
    this.#gauge("prefixd_constraint_cache_bytes").set(bytes);
    this.#gauge("prefixd_constraint_cache_entries").set(entries);
  }

  #renderDevice({ transfers, prefixBank, stepSizes }: MetricsSources): void {
    const { up, down } = transfers();
    const bytes = this.#counter("prefixd_device_bytes_total");
    bytes.reset();
    bytes.inc({ direction: "up" }, up);
    bytes.inc({ direction: "down" }, down);
    const graphs = stepSizes();
    if (graphs !== null) {
      this.#gauge("prefixd_step_sizes").set({ run: "graph" }, graphs.captured);
      this.#gauge("prefixd_step_sizes").set({ run: "kernels" }, graphs.eager.length);
    }
    const bank = prefixBank();
    if (bank === null) return;
    this.#gauge("prefixd_prefix_bank_bytes").set(bank.bytes);
    this.#gauge("prefixd_prefix_bank_entries").set(bank.entries);
    this.#setCounter("prefixd_prefix_bank_hits_total", bank.hits);
    this.#setCounter("prefixd_prefix_bank_misses_total", bank.misses);
  }

  #setCounter(name: NameOf<"counter">, total: number): void {
    const counter = this.#counter(name);
    counter.reset();
    counter.inc(total);
  }

  #counter(name: NameOf<"counter">): Counter {
    return this.#counters.get(name) as Counter;
  }

  #gauge(name: NameOf<"gauge">): Gauge {
    return this.#gauges.get(name) as Gauge;
  }

  #histogram(name: NameOf<"histogram">): Histogram {
    return this.#histograms.get(name) as Histogram;
  }
}
