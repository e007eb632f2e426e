/** docker/helm/prefixd: what it says of prefixd is true, and what Helm makes of it is what each choice asks for. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { Ajv } from "ajv";
import t from "tap";
import { parse, parseAllDocuments } from "yaml";
import { ConfigSchema } from "../src/config-schema.ts";
import { flagOf, variableOf } from "../src/config.ts";
import { repositoryFile } from "./support/docs-block.ts";
import { lacking } from "./support/requirements.ts";

const CHART = "docker/helm/prefixd";
const read = (path: string): string => readFileSync(repositoryFile(`${CHART}/${path}`), "utf8");
const templates = readdirSync(repositoryFile(`${CHART}/templates`)).map((file) => read(`templates/${file}`));
const keys = Object.keys(ConfigSchema.properties);

t.test("values fit their schema, which knows every value and no other", async (t) => {
  const schema = JSON.parse(read("values.schema.json")) as object;
  const validate = new Ajv({ strict: false }).compile(schema);
  const values = parse(read("values.yaml")) as Record<string, unknown>;
  t.ok(validate(values), JSON.stringify(validate.errors));
  for (const wrong of [{ replicas: 0 }, { replicaCount: 3 }, { store: { kind: "sqlite" } }, { otlpEndpoint: "here" }])
    t.notOk(validate({ ...values, ...wrong }), JSON.stringify(wrong));
});

t.test("flags, variables, routes and the version are prefixd's", async (t) => {
  const all = templates.join("\n");
  const flags = [...all.matchAll(/- (--[a-z-]+)/g)].map(([, flag]) => flag!);
  t.ok(flags.length >= 6);
  for (const flag of flags) t.ok(keys.map(flagOf).includes(flag), flag);
  for (const [, name = ""] of all.matchAll(/name: (PREFIXD_\w+)/g)) t.ok(keys.map(variableOf).includes(name), name);
  const { paths } = parse(readFileSync(repositoryFile("openapi.yaml"), "utf8")) as { paths: object };
  for (const [, path] of all.matchAll(/path: (\/[a-z/]+)[ ,}\n]/g))
    if (path!.startsWith("/health") || path === "/metrics") t.hasOwnProp(paths, path!);
  const { version } = JSON.parse(readFileSync(repositoryFile("package.json"), "utf8")) as { version: string };
  t.equal((parse(read("Chart.yaml")) as { appVersion: string }).appVersion, version);
});

const helm = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync("helm", args, { cwd: repositoryFile("docker/helm"), encoding: "utf8" });

interface Rendered {
  readonly kind: string;
  readonly spec: {
    readonly template: { readonly spec: Pod };
    readonly replicas?: number;
    readonly volumeClaimTemplates?: readonly object[];
  };
}
interface Pod {
  readonly terminationGracePeriodSeconds: number;
  readonly enableServiceLinks: boolean;
  readonly containers: readonly [
    {
      readonly args: readonly string[];
      readonly env: readonly { readonly name: string; readonly value?: string; readonly valueFrom?: object }[];
      readonly resources: { readonly limits: Readonly<Record<string, string>> };
      readonly volumeMounts: readonly { readonly name: string }[];
    },
  ];
  readonly volumes: readonly { readonly name: string }[];
}

/** Rendered objects by kind. */
function render(...settings: string[]): Map<string, Rendered> {
  const { status, stdout, stderr } = helm("template", "p", "prefixd", ...settings.flatMap((one) => ["--set", one]));
  if (status !== 0) throw new Error(stderr);
  const documents = parseAllDocuments(stdout, { version: "1.1" }).map((document) => document.toJS() as Rendered | null);
  return new Map(documents.flatMap((object) => (object === null ? [] : [[object.kind, object]])));
}
const REDIS = ["store.kind=redis", "store.redis.url=redis://redis:6379"];

t.test("what Helm makes of it", { skip: lacking("helm") }, async (t) => {
  t.match(helm("lint", "--strict", "prefixd"), { status: 0 });
  const own = render();
  t.same([...own.keys()].sort(), ["Secret", "Service", "StatefulSet"]);
  t.match(own.get("StatefulSet")!.spec, { replicas: 1, volumeClaimTemplates: [{ metadata: { name: "data" } }] });

  const full = render(
    ...REDIS,
    ...["metrics.vllmNames=true", "metrics.podMonitor.enabled=true", "networkPolicy.enabled=true", "gpu.count=2"],
    ...["autoscaling.kind=keda", "adminKey.existingSecret=mine", "otlpEndpoint=http://collector:4318"],
  );
  t.same([...full.keys()].sort(), [
    "Deployment",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodMonitor",
    "ScaledObject",
    "Service",
  ]);
  const { spec } = full.get("Deployment")!;
  const pod = spec.template.spec;
  const [container] = pod.containers;
  t.equal(spec.replicas, undefined, "who scales sets the number");
  t.equal(pod.enableServiceLinks, false);
  t.ok(pod.terminationGracePeriodSeconds > 35, "it is not killed while it drains");
  t.match(container.args, ["serve", "--drain-delay=5", "--drain-timeout=30", "--admin-port=9464"]);
  t.ok(container.args.includes("--metrics-compat=vllm"));
  t.match(container.resources.limits, { "nvidia.com/gpu": "2", memory: "2Gi" });
  t.equal(container.env.find(({ name }) => name === "PREFIXD_STORE")?.value, "redis://redis:6379");
  t.same(container.volumeMounts.map(({ name }) => name).sort(), pod.volumes.map(({ name }) => name).sort());

  t.ok(render(...REDIS, "autoscaling.kind=hpa").has("HorizontalPodAutoscaler"));
  t.equal(render(...REDIS, "replicas=5").get("Deployment")!.spec.replicas, 5);
  t.throws(() => render("store.kind=redis"), /set store\.redis\.url/);
  t.throws(() => render("autoscaling.kind=hpa"), /belongs to one pod/);
  t.throws(() => render("metrics.prefixIds=true"), /only metrics\.vllmNames/);
  t.throws(() => render("replicas=none"), /replicas/);
});
