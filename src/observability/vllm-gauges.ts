import { Gauge, type Registry } from "prom-client";
import type { EngineStats, PrefixesInUse } from "./engine-observer.ts";

export interface VllmOptions {
  /** The base model's name, as `/v1/models` has it. */
  readonly model: string;
  /** Tokens of a slot of the KV cache: n_positions. */
  readonly positions: number;
  /** Ids of the prefixes in use; absent: they are not told. */
  readonly prefixes?: () => PrefixesInUse;
}

/** vLLM numbers its engine cores; a router may ask for the label. */
const ENGINE = "0";

/**
 * The engine's state under the names and labels of vLLM's metrics, as endpoint pickers read them: llm-d's (the model
 * server protocol of the Gateway API Inference Extension) and the router of vLLM's production stack.
 * docs/guides/routers.md says which versions of these were read.
 *
 * What limits prefixd is slots, each of n_positions tokens, so a slot is what vLLM calls a block.
 */
export class VllmGauges {
  readonly #options: VllmOptions;
  readonly #running: Gauge;
  readonly #waiting: Gauge;
  readonly #usage: readonly Gauge[];
  readonly #lora: Gauge;
  readonly #config: Gauge;

  constructor(registry: Registry, options: VllmOptions) {
    this.#options = options;
    const gauge = (name: string, help: string, labelNames: readonly string[]): Gauge =>
      new Gauge({ name: `vllm:${name}`, help, labelNames: [...labelNames], registers: [registry] });
    const ofModel = ["model_name", "engine"];
    this.#running = gauge("num_requests_running", "Requests that hold slots of the KV cache.", ofModel);
    this.#waiting = gauge("num_requests_waiting", "Requests that wait for slots.", ofModel);
    const usage = "Share of the KV cache's slots in use, 0 to 1.";
    this.#usage = [
      gauge("kv_cache_usage_perc", usage, ofModel),
      // Its name before vLLM 0.10, which the router of the production stack still reads.
      gauge("gpu_cache_usage_perc", usage, ofModel),
    ];
    this.#lora = gauge(
      "lora_requests_info",
      "Prefixes of running and waiting requests, where --metrics-prefix-ids tells them; the value is the time of the reading.",
      ["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    );
    this.#config = gauge("cache_config_info", "The KV cache: a block is a slot.", [
      "block_size",
      "num_gpu_blocks",
      "enable_prefix_caching",
      "engine",
    ]);
  }

  set({ queued, running, runningRequests, slots }: EngineStats): void {
    const { model, positions, prefixes } = this.#options;
    const labels = { model_name: model, engine: ENGINE };
    this.#running.set(labels, runningRequests);
    this.#waiting.set(labels, queued);
    for (const gauge of this.#usage) gauge.set(labels, running / slots);
    const inUse = prefixes?.() ?? { running: [], waiting: [] };
    // One series, so that the newest is the only one. Each row may have a prefix of its own.
    this.#lora.reset();
    this.#lora.set(
      {
        max_lora: String(slots),
        running_lora_adapters: inUse.running.join(","),
        waiting_lora_adapters: inUse.waiting.join(","),
      },
      Date.now() / 1000,
    );
    this.#config.set(
      {
        block_size: String(positions),
        num_gpu_blocks: String(slots),
        enable_prefix_caching: "False",
        engine: ENGINE,
      },
      1,
    );
  }
}
