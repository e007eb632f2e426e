import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from "prom-client";
import { privateMemory, readSystemFile } from "../system-files.ts";
import type { EngineObserver, EngineStats, PrefixCacheStats, StepPhase } from "./engine-observer.ts";
import type { ListenerCounts } from "./event-listeners.ts";
import { combinations, KNOWN_VALUES } from "./known-values.ts";
import { TallyHistogram } from "./tally.ts";
import { totalsOf, type Totals } from "./totals.ts";
import { VllmGauges, type VllmOptions } from "./vllm-gauges.ts";

/** Seconds, from half a millisecond (one decode step of a small model) to two minutes. */
const LATENCY = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const BATCH = [1, 2, 4, 8, 16, 24, 32, 48, 64, 128, 256];

interface MetricSpec {
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels?: readonly string[];
  readonly buckets?: readonly number[];
}

/**
 * All of prefixd's own metrics; a test compares docs/reference/metrics.md with them. Labels have few values: never an
 * id, a path or a user.
 */
export const METRICS = {
  prefixd_replica_info: {
    type: "gauge",
    help: "Always 1; its labels are this server's --replica-name and version.",
    labels: ["replica", "version"],
  },
  prefixd_queue_depth: { type: "gauge", help: "Requests waiting for a slot." },
  prefixd_queue_limit: { type: "gauge", help: "Maximum queue length; beyond it requests are answered 429." },
  prefixd_folds: {
    type: "gauge",
    help: "Soft and hard prompts that are being registered: waiting for the model, or running through it.",
  },
  prefixd_running_requests: {
    type: "gauge",
    help: "Requests holding slots of the KV cache, however many sequences each has; one per prompt.",
  },
  prefixd_running_sequences: { type: "gauge", help: "Sequences holding a slot of the KV cache." },
  prefixd_slots: { type: "gauge", help: "Slots of the KV cache." },
  prefixd_batch_size: { type: "histogram", help: "Rows per run of the model.", labels: ["phase"], buckets: BATCH },
  prefixd_step_seconds: {
    type: "histogram",
    help: "Duration of one run of the model.",
    labels: ["phase"],
    buckets: LATENCY,
  },
  prefixd_step_tokens_total: {
    type: "counter",
    help: "Tokens fed to the model: of prompts (prefill), generated ones (decode), of soft and hard prompts being registered (fold).",
    labels: ["phase"],
  },
  prefixd_queue_seconds: {
    type: "histogram",
    help: "Time from submission until a request holds its slots.",
    buckets: LATENCY,
  },
  prefixd_ttft_seconds: {
    type: "histogram",
    help: "Time from submission to a request's first token.",
    buckets: LATENCY,
  },
  prefixd_inter_token_seconds: {
    type: "histogram",
    help: "Time between two tokens of one sequence.",
    buckets: LATENCY,
  },
  prefixd_sequences_total: {
    type: "counter",
    help: "Ended sequences by outcome: length, eos, stop, removed, cancelled or error.",
    labels: ["outcome"],
  },
  prefixd_request_seconds: {
    type: "histogram",
    help: "Time of a whole accepted generate request.",
    buckets: LATENCY,
  },
  prefixd_requests_total: {
    type: "counter",
    help: "Generate requests by outcome: ok, cancelled, too_slow, removed, or the error's code.",
    labels: ["outcome"],
  },
  prefixd_tokens_total: {
    type: "counter",
    help: "Tokens of generate requests by kind: prefix, prompt or completion.",
    labels: ["kind"],
  },
  prefixd_prefix_cache_hits_total: { type: "counter", help: "Prefixes found in the host cache." },
  prefixd_prefix_cache_misses_total: { type: "counter", help: "Prefixes loaded from the store." },
  prefixd_prefix_cache_bytes: { type: "gauge", help: "Bytes of compiled prefixes in the host cache." },
  prefixd_prefix_cache_entries: { type: "gauge", help: "Prefixes in the host cache." },
  prefixd_constraint_compile_seconds: {
    type: "histogram",
    help: "Time to compile and try one structured_outputs that was not cached.",
    buckets: LATENCY,
  },
  prefixd_constraint_mask_seconds: {
    type: "histogram",
    help: "Time per step spent on finding the tokens that constraints allow, in steps that had to.",
    buckets: LATENCY,
  },
  prefixd_constraint_refusals_total: {
    type: "counter",
    help: "Refused structured_outputs by reason: the error's code.",
    labels: ["reason"],
  },
  prefixd_constraint_cache_hits_total: {
    type: "counter",
    help: "Requests whose structured_outputs was compiled before.",
  },
  prefixd_constraint_cache_misses_total: { type: "counter", help: "Requests whose structured_outputs was not." },
  prefixd_constraint_cache_bytes: {
    type: "gauge",
    help: "Bytes of compiled structured_outputs, as of their last use.",
  },
  prefixd_constraint_cache_entries: { type: "gauge", help: "Compiled structured_outputs in memory." },
  prefixd_training_jobs: {
    type: "gauge",
    help: "Training jobs that have not ended, by state: queued or running. With training off: 0.",
    labels: ["state"],
  },
  prefixd_training_jobs_total: {
    type: "counter",
    help: "Ended training jobs by outcome: succeeded, failed or cancelled.",
    labels: ["outcome"],
  },
  prefixd_training_tokens_total: { type: "counter", help: "Tokens trained on, each as often as it was used." },
  prefixd_device_bytes_total: {
    type: "counter",
    help: "Bytes copied to the device (up) and from it (down); 0 on the CPU.",
    labels: ["direction"],
  },
  prefixd_prefix_bank_bytes: { type: "gauge", help: "Bytes of hot prefixes in device memory." },
  prefixd_prefix_bank_entries: { type: "gauge", help: "Hot prefixes in device memory." },
  prefixd_prefix_bank_hits_total: { type: "counter", help: "Prefixes found in device memory." },
  prefixd_prefix_bank_misses_total: { type: "counter", help: "Prefixes copied to the device." },
  prefixd_step_sizes: {
    type: "gauge",
    help: "Step sizes on a device with captured graphs, by how they run: as one graph, or kernel by kernel where capture failed.",
    labels: ["run"],
  },
  prefixd_lease_held: {
    type: "gauge",
    help: "1 while this replica may serve: with Redis, while it holds its lease; on LMDB always.",
  },
  prefixd_private_memory_bytes: {
    type: "gauge",
    help: "Resident memory of the process's own. process_resident_memory_bytes also counts mapped files (weights, LMDB), whose pages the system drops when memory is short; the two are equal where the system does not tell them apart.",
  },
  prefixd_store_errors_total: {
    type: "counter",
    help: "Failed calls of the prefix store, by operation.",
    labels: ["op"],
  },
  prefixd_connections: { type: "gauge", help: "Open connections." },
  prefixd_connections_cut_total: {
    type: "counter",
    help: "Connections closed by the server, by reason: too_many (above --max-connections), not_sending (a request did not arrive in time), not_reading (the client did not read its response).",
    labels: ["reason"],
  },
  prefixd_event_listeners: {
    type: "gauge",
    help: "Listeners of the process, of the HTTP server, and of the open connection that has the most.",
    labels: ["on"],
  },
  prefixd_http_requests_total: {
    type: "counter",
    help: "HTTP requests by route and status class (2xx, 4xx, 5xx, or aborted).",
    labels: ["method", "route", "status"],
  },
  prefixd_http_request_seconds: {
    type: "histogram",
    help: "Duration of HTTP requests until the last byte.",
    labels: ["method", "route"],
    buckets: LATENCY,
  },
} as const satisfies Record<string, MetricSpec>;

type NameOf<T extends MetricSpec["type"]> = {
  [K in keyof typeof METRICS]: (typeof METRICS)[K] extends { type: T } ? K : never;
}[keyof typeof METRICS];

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
