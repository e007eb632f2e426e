/** KEDA's queries, in the guide and in the chart: what they say of one installation beside another, and while a replica loads. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { parse, stringify } from "yaml";
import { repositoryFile } from "./support/docs-block.ts";
import { promtool } from "./support/prometheus.ts";
import { lacking } from "./support/requirements.ts";

interface Trigger {
  readonly metadata: { readonly query: string; readonly threshold: string; readonly ignoreNullValues: string };
}
const read = (path: string): string => readFileSync(repositoryFile(path), "utf8");
const [, yaml = ""] = /```yaml\n(triggers:\n.*?)```/s.exec(read("docs/guides/routers.md")) ?? [];
const { triggers } = parse(yaml) as { triggers: readonly Trigger[] };
const queries = triggers.map(({ metadata }) => metadata.query);

t.test("the chart asks what the guide says, of its own release", (t) => {
  const template = read("docker/helm/prefixd/templates/availability.yaml");
  const asked = [...template.matchAll(/^ +query: (.*)$/gm)].map(([, query = ""]) =>
    query.replaceAll(/\{ \{\{- \$series -\}\} \}/g, '{namespace="ml", app_kubernetes_io_instance="prefixd"}'),
  );
  t.same(asked, queries);
  t.match(read("docker/helm/prefixd/templates/watching.yaml"), "podTargetLabels: [app.kubernetes.io/instance]");
  for (const { metadata } of triggers) t.equal(metadata.ignoreNullValues, "false", "no data takes no replica away");
  t.end();
});

/** What Prometheus answers each query, of series that have had these values for ten minutes. */
function answers(t: Test, series: Record<string, number>, expected: readonly (number | undefined)[]): void {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-autoscaling-"));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const test = {
    interval: "1m",
    input_series: Object.entries(series).map(([series, value]) => ({ series, values: `${value}x10` })),
    promql_expr_test: queries.map((expr, at) => {
      const value = expected[at];
      return { expr, eval_time: "5m", exp_samples: value === undefined ? [] : [{ labels: "{}", value }] };
    }),
  };
  writeFileSync(join(folder, "test.yml"), stringify({ tests: [test] }));
  const { status, said } = promtool(["test", "rules", join(folder, "test.yml")]);
  t.equal(status, 0, said);
}
/** A pod's series, as the chart's PodMonitor labels them. */
const pod = (release: string, name: string, queued: number, running: number, slots: number): Record<string, number> => {
  const labels = `{namespace="ml", app_kubernetes_io_instance="${release}", pod="${name}"}`;
  return {
    [`prefixd_queue_depth${labels}`]: queued,
    [`prefixd_running_sequences${labels}`]: running,
    [`prefixd_slots${labels}`]: slots,
  };
};

t.test("what Prometheus answers", { skip: lacking("prometheus") }, (t) => {
  const busy = { ...pod("prefixd", "a", 9, 32, 32), ...pod("prefixd", "b", 3, 16, 32) };
  answers(t, busy, [12, 1.5]);
  answers(t, { ...busy, ...pod("other", "c", 200, 8, 8) }, [12, 1.5]);
  answers(t, { ...busy, ...pod("prefixd", "loading", 0, 0, 0) }, [12, 1.5]);
  answers(t, pod("prefixd", "loading", 0, 0, 0), [0, undefined]);
  answers(t, pod("other", "c", 200, 8, 8), [undefined, undefined]);
  t.end();
});
