/** Seconds, from half a millisecond (one decode step of a small model) to two minutes. */
export const LATENCY = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const BATCH = [1, 2, 4, 8, 16, 24, 32, 48, 64, 128, 256];

export interface MetricSpec {
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
    help: "Training jobs that have not ended, by state: queued or running. Replicas that share a Redis each show all of its jobs, so take the maximum over them, not the sum. With training off: 0.",
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
  prefixd_http_workers: {
    type: "gauge",
    help: "HTTP workers that run; 0 also without --http-workers.",
  },
  prefixd_http_workers_ended_total: {
    type: "counter",
    help: "HTTP workers that ended by themselves, with all their connections; each gets a successor.",
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

/** The metrics of one type. */
export type NameOf<T extends MetricSpec["type"]> = {
  [K in keyof typeof METRICS]: (typeof METRICS)[K] extends { type: T } ? K : never;
}[keyof typeof METRICS];
