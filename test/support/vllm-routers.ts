/** How routers read vLLM's metrics and models, after their sources (docs/guides/routers.md says which versions). */
import type { Family, Sample } from "./exposition.ts";

/** What llm-d's endpoint picker keeps of an endpoint. */
export interface PickerMetrics {
  readonly WaitingQueueSize: number;
  readonly RunningRequestsSize: number;
  readonly KVCacheUsagePercent: number;
  readonly ActiveModels: readonly string[];
  readonly WaitingModels: readonly string[];
  readonly MaxActiveModels: number;
  readonly CacheBlockSize: number;
  readonly CacheNumBlocks: number;
}

/**
 * llm-d-router's core-metrics-extractor with its defaults for vLLM. Throws where it reports an error: a family that is
 * missing, a number that Go's Atoi refuses.
 */
export function readAsPicker(families: ReadonlyMap<string, Family>): PickerMetrics {
  const family = (name: string): readonly Sample[] => {
    const found = families.get(name);
    if (found === undefined || found.samples.length === 0) throw new Error(`metric family "${name}" not found`);
    if (found.type !== "gauge" && found.type !== "counter") throw new Error(`${name} is a ${found.type}`);
    return found.samples;
  };
  const first = (name: string): number => family(name)[0]!.value;
  // Each change of its labels is a new series in vLLM; the value is a time, and the newest counts.
  const lora = family("vllm:lora_requests_info").reduce((one, other) => (other.value > one.value ? other : one)).labels;
  const cache = family("vllm:cache_config_info")[0]!.labels;
  return {
    WaitingQueueSize: Math.trunc(first("vllm:num_requests_waiting")),
    RunningRequestsSize: Math.trunc(first("vllm:num_requests_running")),
    KVCacheUsagePercent: first("vllm:kv_cache_usage_perc"),
    ActiveModels: adapters(lora["running_lora_adapters"]!),
    WaitingModels: adapters(lora["waiting_lora_adapters"]!),
    MaxActiveModels: atoi(lora["max_lora"]!),
    CacheBlockSize: atoi(cache["block_size"]!),
    CacheNumBlocks: atoi(cache["num_gpu_blocks"]!),
  };
}

/** llm-d-router's lora-affinity-scorer. */
export function affinity({ ActiveModels, WaitingModels, MaxActiveModels }: PickerMetrics, model: string): number {
  if (ActiveModels.includes(model)) return 1;
  if (ActiveModels.length + WaitingModels.length < MaxActiveModels) return 0.8;
  return WaitingModels.includes(model) ? 0.6 : 0;
}

/** `EngineStats.from_vllm_scrape` of the production stack's router: the last sample of each name. */
export function readAsProductionStack(families: ReadonlyMap<string, Family>): {
  num_running_requests: number;
  num_queuing_requests: number;
  gpu_cache_usage_perc: number;
} {
  const last = (name: string): number => families.get(name)?.samples.at(-1)?.value ?? 0;
  return {
    num_running_requests: last("vllm:num_requests_running"),
    num_queuing_requests: last("vllm:num_requests_waiting"),
    gpu_cache_usage_perc: last("vllm:gpu_cache_usage_perc"),
  };
}

const adapters = (text: string): string[] =>
  text
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");

function atoi(text: string): number {
  if (!/^[+-]?\d+$/.test(text)) throw new Error(`strconv.Atoi: parsing "${text}": invalid syntax`);
  return Number(text);
}
