import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { parse } from "yaml";
import { METRICS } from "../../src/observability/metric-specs.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import { privateMemory } from "../../src/system-files.ts";
import { docsBlock, markdownTable } from "../support/docs-block.ts";
import { ROOT } from "../support/program.ts";

t.test("what the engine and the server report comes out in Prometheus' format", async (t) => {
  const metrics = new Metrics({ processMetrics: false });
  metrics.watch({
    engine: () => ({ queued: 3, folds: 2, running: 7, runningRequests: 4, slots: 32, maxQueue: 256 }),
    prefixCache: () => ({ hits: 11, misses: 2, bytes: 4096, entries: 2 }),
    transfers: () => ({ up: 640, down: 5120 }),
    prefixBank: () => ({ hits: 9, misses: 4, bytes: 2048, entries: 3 }),
    stepSizes: () => ({ captured: 12, eager: ["decode of 3"] }),
    mayServe: () => true,
  });
  metrics.watchConnections(() => ({ open: 5, listeners: { process: 4, server: 9, connection: 11 } }));
  metrics.step("decode", 8, 8, 0.004);
  metrics.step("prefill", 1, 120, 0.02);
  metrics.queued(0.001);
  metrics.firstToken(0.03);
  metrics.interToken(0.004);
  metrics.finished("eos");
  metrics.request("ok", 0.5, { prefix: 10, prompt: 20, completion: 30 });
  metrics.request("queue_full");
  metrics.http("GET", "/prefixes/:id", 404, 0.001);
  metrics.http("GET", "/prefixes/:id", 0, 0.001);
  metrics.http("BREW", "/x", 405, 0.001);
  metrics.storeError("head");
  const text = await metrics.render();
  for (const line of [
    "prefixd_queue_depth 3",
    "prefixd_queue_limit 256",
    'prefixd_step_sizes{run="graph"} 12',
    'prefixd_step_sizes{run="kernels"} 1',
    "prefixd_running_sequences 7",
    "prefixd_running_requests 4",
    "prefixd_lease_held 1",
    "prefixd_slots 32",
    'prefixd_device_bytes_total{direction="up"} 640',
    'prefixd_device_bytes_total{direction="down"} 5120',
    "prefixd_connections 5",
    'prefixd_event_listeners{on="process"} 4',
    'prefixd_event_listeners{on="connection"} 11',
    "prefixd_prefix_bank_entries 3",
    "prefixd_prefix_bank_bytes 2048",
    "prefixd_prefix_bank_hits_total 9",
    "prefixd_prefix_bank_misses_total 4",
    'prefixd_batch_size_bucket{le="8",phase="decode"} 1',
    'prefixd_step_seconds_count{phase="prefill"} 1',
    'prefixd_step_tokens_total{phase="prefill"} 120',
    "prefixd_queue_seconds_count 1",
    "prefixd_ttft_seconds_count 1",
    "prefixd_inter_token_seconds_count 1",
    'prefixd_sequences_total{outcome="eos"} 1',
    'prefixd_requests_total{outcome="ok"} 1',
    'prefixd_requests_total{outcome="queue_full"} 1',
    "prefixd_request_seconds_count 1",
    'prefixd_tokens_total{kind="prefix"} 10',
    'prefixd_tokens_total{kind="completion"} 30',
    "prefixd_prefix_cache_hits_total 11",
    "prefixd_prefix_cache_misses_total 2",
    "prefixd_prefix_cache_bytes 4096",
    "prefixd_prefix_cache_entries 2",
    'prefixd_http_requests_total{method="GET",route="/prefixes/:id",status="4xx"} 1',
    'prefixd_http_requests_total{method="GET",route="/prefixes/:id",status="aborted"} 1',
    'prefixd_http_requests_total{method="OTHER",route="/x",status="4xx"} 1',
    'prefixd_store_errors_total{op="head"} 1',
  ])
    t.ok(text.includes(line + "\n"), line);
  t.match(
    await metrics.render(),
    /prefixd_prefix_cache_hits_total 11\n/,
    "totals that are read are not added up again",
  );
});

t.test("process metrics come along, registries are separate", async (t) => {
  const one = new Metrics();
  const two = new Metrics({ processMetrics: false });
  t.match(
    await one.render(),
    /nodejs_eventloop_lag_seconds[^]*process_resident_memory_bytes|process_resident_memory_bytes[^]*nodejs_eventloop_lag_seconds/,
  );
  one.request("ok");
  t.match(await two.render(), /^prefixd_requests_total\{outcome="ok"\} 0$/m);
  one.close();
});

t.test("a request's documented refusals are counted from 0 on", async (t) => {
  const { paths } = parse(readFileSync(join(ROOT, "openapi.yaml"), "utf8")) as {
    paths: Record<
      string,
      Record<string, { responses: Record<string, { content?: Record<string, { examples?: object }> }> }>
    >;
  };
  const shown = await new Metrics({ processMetrics: false }).render();
  const outcomes = [...shown.matchAll(/^prefixd_requests_total\{outcome="(\w+)"\} 0$/gm)].map(
    ([, outcome]) => outcome!,
  );
  const codes = ["/generate", "/v1/completions", "/v1/chat/completions"].flatMap((path) =>
    Object.entries(paths[path]!["post"]!.responses)
      .filter(([status]) => Number(status) >= 400)
      .flatMap(([, { content = {} }]) => Object.values(content).flatMap(({ examples = {} }) => Object.keys(examples))),
  );
  t.ok(codes.length > 90, `${codes.length} codes`);
  const balancer = new Set(["no_replica"]);
  t.same(
    [...new Set(codes.filter((code) => !outcomes.includes(code)))].sort(),
    [...balancer],
    "all but the balancer's own",
  );
});

t.test("private memory is told from mapped files", async (t) => {
  t.equal(
    privateMemory("VmRSS:\t  500 kB\nRssAnon:\t  300 kB\nRssFile:\t  180 kB\nRssShmem:\t   20 kB\n"),
    320 * 1024,
    "as Linux tells it",
  );
  t.equal(privateMemory("VmRSS:\t  500 kB\n"), null, "an old kernel");
  t.equal(privateMemory(""), null, "another system");
  const metrics = new Metrics({ processMetrics: false });
  const shown = Number(/^prefixd_private_memory_bytes (\S+)$/m.exec(await metrics.render())?.[1]);
  t.ok(shown > 2 ** 20 && shown <= process.resourceUsage().maxRSS * 1024, `${shown} bytes`);
});

t.test("docs/reference/metrics.md lists the metrics of the code", async (t) => {
  const rows = Object.entries<{ type: string; help: string; labels?: readonly string[] }>(METRICS).map(
    ([name, spec]) => [
      "`" + name + "`",
      spec.type,
      (spec.labels ?? []).map((label) => "`" + label + "`").join(", "),
      spec.help,
    ],
  );
  const table = markdownTable(["metric", "type", "labels", "what it is"], rows);
  t.equal(docsBlock("docs/reference/metrics.md", "metrics", table), table);
});
