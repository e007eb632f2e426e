/** One real server, watched: by routers, by Prometheus with our rules and our dashboard, by a collector of traces, and while it drains. */
import { readFileSync } from "node:fs";
import t, { type Test } from "tap";
import { parse } from "yaml";
import { parseConfig, type Config } from "../../src/config.ts";
import { startServer } from "../../src/main.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { repositoryFile } from "../support/docs-block.ts";
import { parseExposition } from "../support/exposition.ts";
import { freePort } from "../support/free-port.ts";
import { sidecar, startNginx } from "../support/nginx.ts";
import { OtlpReceiver } from "../support/otlp-receiver.ts";
import { promtool, startPrometheus } from "../support/prometheus.ts";
import { lacking } from "../support/requirements.ts";
import { adapterForm, temporaryFolder } from "../support/server.ts";
import { readAsPicker, readAsProductionStack } from "../support/vllm-routers.ts";

const ADMIN_KEY = "watched-admin-key-0123456789abcdef0123456789";
const folder = temporaryFolder();
const collector = await OtlpReceiver.start();
// Long: what is exported before the end is exported by the end.
Object.assign(process.env, { OTEL_EXPORTER_OTLP_ENDPOINT: collector.url, OTEL_BSP_SCHEDULE_DELAY: "600000" });
const adminPort = await freePort();
const flags = [
  ...["--port", "0", "--store", `lmdb:${folder.path}/store`, "--cache-dir", `${folder.path}/cache`],
  ...["--admin-port", String(adminPort), "--metrics-compat", "vllm", "--metrics-prefix-ids"],
  ...["--max-batch", "4", "--spin-time", "0", "--console", "off", "--drain-timeout", "60"],
];
const config = parseConfig(flags, { PREFIXD_ADMIN_KEY: ADMIN_KEY }) as Config;
const server = await startServer(config, createLogger("silent"));
t.teardown(async () => {
  await server.stop({ delaySeconds: 0 });
  await collector.close();
  folder.remove();
});

const admin = `http://127.0.0.1:${adminPort}`;
const headers = { authorization: `Bearer ${ADMIN_KEY}` };
const ask = (path: string, init: RequestInit = {}): Promise<Response> =>
  fetch(server.url + path, { ...init, headers: { ...headers, ...init.headers } });
const generate = (body: object, signal?: AbortSignal): Promise<Response> =>
  ask("/generate", {
    method: "POST",
    body: JSON.stringify({ prompt: "i want to book a flight\n=>", ...body }),
    headers: { "content-type": "application/json" },
    ...(signal === undefined ? {} : { signal }),
  });
const scrape = async (): Promise<string> => (await fetch(`${admin}/metrics`)).text();

/** Rows that go on until `end` is called; resolves when they have begun. */
async function busy(t: Test, body: object): Promise<{ end(): void }> {
  const controller = new AbortController();
  const end = (): void => controller.abort();
  t.teardown(end);
  const response = await generate({ stream: true, ignore_eos: true, max_new_tokens: 400, ...body }, controller.signal);
  await response.body!.getReader().read();
  return { end };
}

t.test("two ports: the main one asks for the admin key, the other has nothing else", async (t) => {
  t.equal((await fetch(`${server.url}/metrics`)).status, 401);
  t.equal((await ask("/metrics")).status, 200);
  t.equal((await fetch(`${admin}/metrics`)).status, 200);
  t.match(await (await fetch(`${admin}/health`)).json(), { status: "ready", checks: { model: "ok", store: "ok" } });
  for (const path of ["/generate", "/prefixes", "/v1/models", "/admin/users"])
    t.equal((await fetch(admin + path, { headers })).status, 404, path);
});

t.test("routers see models with their parents, and what runs", async (t) => {
  t.equal((await ask("/prefixes/intent", { method: "PUT", body: adapterForm("prefixes/intent") })).status, 201);
  const { data } = (await (await ask("/v1/models")).json()) as { data: { id: string; parent: string | null }[] };
  const [base] = data.filter(({ parent }) => parent === null);
  t.same(
    data.filter(({ parent }) => parent === base!.id).map(({ id }) => id),
    ["intent"],
    "as the production stack's router tells adapters from models",
  );
  const idle = readAsPicker(parseExposition(await scrape()));
  t.match(idle, { RunningRequestsSize: 0, WaitingQueueSize: 0, KVCacheUsagePercent: 0, ActiveModels: [] });
  t.match(idle, { MaxActiveModels: 4, CacheNumBlocks: 4 });

  const running = await busy(t, { prefix_id: "intent", n: 3, do_sample: true });
  const wide = generate({ n: 2, do_sample: true, max_new_tokens: 8 });
  let families = parseExposition(await scrape());
  while (readAsPicker(families).WaitingQueueSize === 0) families = parseExposition(await scrape());
  t.match(readAsPicker(families), {
    RunningRequestsSize: 1,
    WaitingQueueSize: 1,
    KVCacheUsagePercent: 0.75,
    ActiveModels: ["admin/intent"],
  });
  t.same(readAsProductionStack(families), {
    num_running_requests: 1,
    num_queuing_requests: 1,
    gpu_cache_usage_perc: 0.75,
  });
  t.equal(families.get("vllm:num_requests_running")!.samples[0]!.labels["model_name"], base!.id);
  running.end();
  t.equal((await wide).status, 200);
});

t.test(
  "the proxy beside a replica gives vLLM's router metrics without a key, and all else with one",
  {
    skip: lacking("nginx"),
  },
  async (t) => {
    const proxy = await startNginx(sidecar({ main: Number(new URL(server.url).port), admin: adminPort }));
    t.teardown(() => proxy.stop());
    const metrics = await fetch(`${proxy.url}/metrics`);
    t.equal(metrics.status, 200);
    t.hasOwnProps(readAsProductionStack(parseExposition(await metrics.text())), ["num_running_requests"]);
    t.equal((await fetch(`${proxy.url}/v1/models`)).status, 401, "asks for a key");
    t.equal((await fetch(`${proxy.url}/v1/models`, { headers })).status, 200);
    const answer = await fetch(`${proxy.url}/generate`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: JSON.stringify({ prompt: "a", max_new_tokens: 4, ignore_eos: true, stream: true }),
    });
    t.match((await answer.text()).trimEnd().split("\n\n"), { length: 5, 4: "data: [DONE]" }, "a stream's events");
  },
);

t.test("series of known values are there from the start, and none comes twice", async (t) => {
  const families = parseExposition(await scrape());
  const has = (name: string, labels: Record<string, string>): boolean =>
    families
      .get(name)!
      .samples.some((sample) => Object.entries(labels).every(([label, value]) => sample.labels[label] === value));
  t.ok(has("prefixd_requests_total", { outcome: "device_lost" }));
  t.ok(has("prefixd_store_errors_total", { op: "loadKv" }));
  t.ok(has("prefixd_store_errors_total", { op: "findKey" }));
  t.ok(has("prefixd_http_requests_total", { method: "POST", route: "/prefixes/:id/generate", status: "5xx" }));
  t.ok(has("prefixd_step_seconds", { phase: "fold" }));
});

const skip = lacking("prometheus");

t.test("promtool has nothing to say against our names; vLLM's have colons", { skip }, async (t) => {
  const text = await scrape();
  const own = text
    .split("\n")
    .filter((line) => !line.includes("vllm:"))
    .join("\n");
  t.same(promtool(["check", "metrics"], own), { status: 0, said: "" });
  const { said } = promtool(["check", "metrics"], text);
  t.same(
    said.split("\n").filter((line) => line !== "" && !/^vllm:\w+ metric names should not contain ':'$/.test(line)),
    [],
  );
});

t.test("the rules are valid, and their own tests hold", { skip }, async (t) => {
  t.match(promtool(["check", "config", "prometheus.yml"]), { status: 0 });
  t.match(promtool(["test", "rules", "rules.test.yml"]), { status: 0, said: "SUCCESS" });
});

interface Dashboard {
  readonly panels: readonly { readonly title: string; readonly targets?: readonly { readonly expr: string }[] }[];
}
interface Rules {
  readonly groups: readonly { readonly rules: readonly { readonly alert: string; readonly expr: string }[] }[];
}

/** Panels that are empty where there is no trouble. */
const EMPTY_WHEN_WELL = ["Refused and failed", "Failed calls of the store"];

t.test("a real Prometheus takes every expression, and finds data where there must be some", { skip }, async (t) => {
  const prometheus = await startPrometheus(`127.0.0.1:${adminPort}`, 1);
  t.teardown(() => prometheus.stop());
  const form = { choice: ["yes", "no"] };
  for (const more of [{ prefix_id: "intent" }, { prefix_id: "intent" }, { structured_outputs: form }])
    t.equal((await generate({ max_new_tokens: 5, ...more })).status, 200);
  // Until what has just happened is two scrapes old.
  const known = async (): Promise<boolean> =>
    (await prometheus.query("increase(prefixd_constraint_mask_seconds_count[1m]) > 0")).length > 0 ||
    (await prometheus.query("increase(prefixd_constraint_compile_seconds_count[1m]) > 0")).length > 0;
  while (!(await known())) await new Promise((resolve) => setTimeout(resolve, 100));

  const dashboard = JSON.parse(
    readFileSync(repositoryFile("docker/grafana/dashboards/prefixd.json"), "utf8"),
  ) as Dashboard;
  for (const { title, targets = [] } of dashboard.panels) {
    for (const { expr } of targets) {
      const asked = expr.replaceAll("$__rate_interval", "1m").replaceAll("$instance", ".*");
      const found = await prometheus.query(asked);
      if (EMPTY_WHEN_WELL.includes(title)) continue;
      t.ok(found.length > 0, `${title}: ${expr}`);
    }
  }
  const rules = parse(readFileSync(repositoryFile("docker/prometheus/rules.yml"), "utf8")) as Rules;
  for (const { alert, expr } of rules.groups.flatMap((group) => group.rules)) {
    t.same(await prometheus.query(expr), [], `${alert} is quiet`);
    for (const name of expr.match(/(?:prefixd|nodejs|process)_\w+/g) ?? [])
      t.ok((await prometheus.query(name)).length > 0, `${alert}: ${name} is scraped`);
  }
});

t.test("while it drains it is not ready but watched; what it traced is exported by its end", async (t) => {
  const stream = await generate({ stream: true, ignore_eos: true, max_new_tokens: 100 });
  const reader = stream.body!.getReader();
  await reader.read();
  t.same(collector.received, []);
  const stopped = server.stop({ delaySeconds: 0 });
  const readiness = await fetch(`${admin}/health/ready`);
  t.match([readiness.status, await readiness.json()], [503, { checks: { server: "shutting down" } }]);
  t.equal((await fetch(`${admin}/health/live`)).status, 200);
  t.equal(parseExposition(await scrape()).get("prefixd_running_requests")!.samples[0]!.value, 1);
  while (!(await reader.read()).done);
  await stopped;
  await t.rejects(fetch(`${admin}/metrics`), "the port is closed");
  const names = collector.spans.map(({ name }) => name);
  t.ok(names.includes("POST /generate") && names.includes("PUT /prefixes/:id") && names.includes("decode"));
  const last = collector.spans.findLast(({ kind }) => kind === 2)!;
  t.match(last, { attributes: { "gen_ai.usage.output_tokens": 100 }, status: 0 });
});
