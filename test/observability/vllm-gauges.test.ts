import t from "tap";
import { Metrics } from "../../src/observability/metrics.ts";
import { parseExposition } from "../support/exposition.ts";
import { affinity, readAsPicker, readAsProductionStack } from "../support/vllm-routers.ts";

const ENGINE = { queued: 3, folds: 0, running: 6, runningRequests: 2, slots: 8, maxQueue: 10 };

function watched(): { metrics: Metrics; running: string[]; waiting: string[] } {
  const metrics = new Metrics({ processMetrics: false });
  metrics.watch({
    engine: () => ENGINE,
    prefixCache: () => ({ hits: 0, misses: 0, bytes: 0, entries: 0 }),
    transfers: () => ({ up: 0, down: 0 }),
    prefixBank: () => null,
    stepSizes: () => null,
  });
  return { metrics, running: [], waiting: [] };
}

t.test("without --metrics-compat nothing has vLLM's names", async (t) => {
  const { metrics } = watched();
  t.notMatch(await metrics.render(), /vllm/);
});

t.test("routers read requests, not rows, and no prefix unless it is asked for", async (t) => {
  const { metrics } = watched();
  metrics.alsoAsVllm({ model: 'a "model"', positions: 1024 });
  const families = parseExposition(await metrics.render());
  t.same(readAsPicker(families), {
    WaitingQueueSize: 3,
    RunningRequestsSize: 2,
    KVCacheUsagePercent: 0.75,
    ActiveModels: [],
    WaitingModels: [],
    MaxActiveModels: 8,
    CacheBlockSize: 1024,
    CacheNumBlocks: 8,
  });
  t.same(readAsProductionStack(families), {
    num_running_requests: 2,
    num_queuing_requests: 3,
    gpu_cache_usage_perc: 0.75,
  });
  t.same(families.get("vllm:num_requests_running")!.samples[0]!.labels, { model_name: 'a "model"', engine: "0" });
});

t.test("with --metrics-prefix-ids the newest series has the prefixes of now", async (t) => {
  const { metrics, running, waiting } = watched();
  metrics.alsoAsVllm({ model: "m", positions: 64, prefixes: () => ({ running, waiting }) });
  running.push("ann/intent", "bob/dates");
  waiting.push("ann/late");
  const before = Date.now() / 1000;
  const first = parseExposition(await metrics.render());
  const picked = readAsPicker(first);
  t.match(picked, { ActiveModels: ["ann/intent", "bob/dates"], WaitingModels: ["ann/late"] });
  t.same([affinity(picked, "ann/intent"), affinity(picked, "eve/other")], [1, 0.8]);
  const { value } = first.get("vllm:lora_requests_info")!.samples[0]!;
  t.ok(value >= before && value <= Date.now() / 1000, "the value is the time");

  running.splice(0);
  waiting.splice(0);
  const later = parseExposition(await metrics.render());
  t.equal(later.get("vllm:lora_requests_info")!.samples.length, 1, "what has ended is gone");
  t.match(readAsPicker(later), { ActiveModels: [], WaitingModels: [] });
});
