/** docker/helm/prefixd: what it says of prefixd is true, and what Helm makes of it is what each choice asks for. */
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { Ajv } from "ajv";
import t from "tap";
import { parse, parseAllDocuments } from "yaml";
import { ConfigSchema } from "../src/config-schema.ts";
import { flagOf, variableOf } from "../src/config.ts";
import { repositoryFile } from "./support/docs-block.ts";
import { typeErrors, type KubernetesObject } from "./support/kubernetes-types.ts";
import { lacking, SYSTEM_PATH } from "./support/requirements.ts";

t.setTimeout(120_000);

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
  const schema = JSON.parse(read("values.schema.json")) as { properties: { httpWorkers: object } };
  const { minimum, maximum } = ConfigSchema.properties.httpWorkers as { minimum?: number; maximum?: number };
  t.match(schema.properties.httpWorkers, { minimum, maximum });
  const { version } = JSON.parse(readFileSync(repositoryFile("package.json"), "utf8")) as { version: string };
  t.equal((parse(read("Chart.yaml")) as { appVersion: string }).appVersion, version);
});

const helm = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
  spawnSync("helm", args, {
    cwd: repositoryFile("docker/helm"),
    encoding: "utf8",
    env: { ...process.env, PATH: SYSTEM_PATH },
  });

interface Rendered extends KubernetesObject {
  readonly spec: {
    readonly selector: { readonly matchLabels: object };
    readonly template: { readonly metadata: { readonly labels: object }; readonly spec: Pod };
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
const FULL = [
  ...REDIS,
  ...["metrics.vllmNames=true", "metrics.podMonitor.enabled=true", "networkPolicy.enabled=true", "gpu.count=1"],
  "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name=monitoring",
  ...["autoscaling.kind=keda", "adminKey.existingSecret=mine", "otlpEndpoint=http://collector:4318"],
];
/** Each value that puts more into an object. */
const MORE = [
  ...["training=true", "console=false", "httpWorkers=2", "extraArgs={--log-level,debug}", "metrics.prefixIds=true"],
  ...["extraEnv[0].name=TZ", "extraEnv[0].value=UTC", "imagePullSecrets[0].name=registry", "model=/models/gpt2"],
  ...["extraVolumes[0].name=models", "extraVolumes[0].persistentVolumeClaim.claimName=models"],
  ...["extraVolumeMounts[0].name=models", "extraVolumeMounts[0].mountPath=/models", "podLabels.team=nlp"],
  ...["podAnnotations.note=x", "nodeSelector.disk=ssd", "metrics.podMonitor.labels.release=prometheus"],
  ...["tolerations[0].key=gpu", "tolerations[0].operator=Exists", "tolerations[0].effect=NoSchedule"],
  ...["topologySpreadConstraints[0].maxSkew=1", "topologySpreadConstraints[0].topologyKey=zone"],
  ...["topologySpreadConstraints[0].whenUnsatisfiable=ScheduleAnyway", "podDisruptionBudget.maxUnavailable=50%"],
  ...["affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey=host"],
  ...["networkPolicy.apiFrom[0].podSelector.matchLabels.app=web", "service.type=LoadBalancer"],
  ...["service.annotations.internal=yes", "rollout.maxSurge=25%", "rollout.maxUnavailable=1"],
];

t.test("what Helm makes of it", { skip: lacking("helm") }, async (t) => {
  t.match(helm("lint", "--strict", "prefixd"), { status: 0 });
  const own = render();
  t.same([...own.keys()].sort(), ["Secret", "Service", "StatefulSet"]);
  t.match(own.get("StatefulSet")!.spec, { replicas: 1, volumeClaimTemplates: [{ metadata: { name: "data" } }] });

  const full = render(...FULL);
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
  t.notMatch(container.args.join(" "), /--(training|console|http-workers)/, "those are serve's own defaults");
  t.match(container.resources.limits, { "nvidia.com/gpu": "1", memory: "2Gi" });
  t.equal(container.env.find(({ name }) => name === "PREFIXD_STORE")?.value, "redis://redis:6379");
  t.same(container.volumeMounts.map(({ name }) => name).sort(), pod.volumes.map(({ name }) => name).sort());

  const [other] = render("training=true", "console=false", "httpWorkers=2").get("StatefulSet")!.spec.template.spec
    .containers;
  t.match(other.args.slice(-3), ["--training=on", "--console=off", "--http-workers=2"]);

  t.ok(render(...REDIS, "autoscaling.kind=hpa").has("HorizontalPodAutoscaler"));
  t.equal(render(...REDIS, "replicas=5").get("Deployment")!.spec.replicas, 5);
  t.throws(() => render("store.kind=redis"), /set store\.redis\.url/);
  t.throws(() => render("autoscaling.kind=hpa"), /belongs to one pod/);
  t.throws(() => render("metrics.port=8080"), /8080 is the API's/);
  const { triggers } = full.get("ScaledObject")!.spec as unknown as {
    triggers: readonly { readonly metadata: { readonly query: string } }[];
  };
  const series = '{namespace="default", app_kubernetes_io_instance="p"}';
  t.same(
    triggers.map(({ metadata }) => metadata.query),
    [`sum(prefixd_queue_depth${series})`, `sum(prefixd_running_sequences${series}) / avg(prefixd_slots${series} > 0)`],
  );
  t.match(full.get("PodMonitor")!.spec, { podTargetLabels: ["app.kubernetes.io/instance"] });
  t.ok(render(...REDIS, "autoscaling.kind=keda", 'autoscaling.keda.series=pod=~"p-.*"').has("ScaledObject"));
  t.throws(() => render(...REDIS, "autoscaling.kind=keda"), /set metrics\.podMonitor\.enabled/);
  t.throws(() => render("metrics.prefixIds=true"), /only metrics\.vllmNames/);
  t.throws(() => render("replicas=none"), /replicas/);

  const rollingUpdate = (...settings: string[]): unknown =>
    (render(...REDIS, ...settings).get("Deployment")!.spec as unknown as { strategy: object }).strategy;
  t.match(rollingUpdate(), { rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } });
  t.match(rollingUpdate("rollout.maxSurge=0", "rollout.maxUnavailable=50%"), {
    rollingUpdate: { maxSurge: 0, maxUnavailable: "50%" },
  });
});

t.test("what cannot work, or tells a secret, is refused", { skip: lacking("helm") }, async (t) => {
  const redis = (url: string): string[] => ["store.kind=redis", `store.redis.url=${url.replaceAll(",", "\\,")}`];
  for (const url of ["redis://:word@redis:6379", "rediss://ann:word@a:1,b:2/0?sentinel=x", "unix://:word@/run/redis"])
    t.throws(() => render(...redis(url)), /has a password/, url);
  for (const url of ["redis://ann@redis:6379/0", "redis://a:1,b:2/0?sentinel=x", "unix:///run/a:b@c?db=1"])
    t.ok(render(...redis(url)).has("Deployment"), url);
  t.throws(
    () => render("metrics.podMonitor.enabled=true", "networkPolicy.enabled=true"),
    /metricsFrom is empty/,
    "a PodMonitor that reaches no pod",
  );
  t.throws(() => render("gpu.count=2"), /gpu\/count/, "a server uses one");
  t.throws(() => render(...REDIS, "rollout.maxSurge=0"), /no pod could be replaced/);
  for (const map of ["podLabels", "podAnnotations", "nodeSelector", "service.annotations", "metrics.podMonitor.labels"])
    t.throws(() => render(`${map}.scrape=true`), /want string/, `${map} has strings, as Kubernetes asks`);
  t.throws(
    () => render("podLabels.app\\.kubernetes\\.io/name=other"),
    /podLabels: .* are the chart's/,
    "the Service would lose its pods",
  );
  for (const busy of ["training=true", "gpu.count=1"])
    t.throws(() => render(...REDIS, "autoscaling.kind=hpa", busy), /take keda/, busy);
});

/** Maps of Kubernetes whose keys are the user's. */
const FREE =
  /\.(annotations|data|labels|limits|matchLabels|nodeSelector|requests|selector|triggers\.\d+\.metadata)\.(?!matchLabels$)/;

/** Copies of an object, each with one of its keys, which `path` names, misspelt. */
function* misspelt<T>(object: T, path = ""): Generator<{ readonly path: string; readonly object: T }> {
  if (typeof object !== "object" || object === null) return;
  for (const [key, value] of Object.entries(object)) {
    const here = `${path}.${key}`;
    const put = (name: string, other: unknown): T =>
      (Array.isArray(object)
        ? object.with(Number(name), other)
        : Object.fromEntries(Object.entries(object).map((pair) => (pair[0] === key ? [name, other] : pair)))) as T;
    if (!Array.isArray(object)) yield { path: here, object: put(`${key}X`, value) };
    for (const inner of misspelt(value as unknown, here)) yield { path: inner.path, object: put(key, inner.object) };
  }
}

t.test("it is what Kubernetes takes", { skip: lacking("helm", "kubernetes-types") }, async (t) => {
  const own = [...render().values()];
  const full = [...render(...FULL, ...MORE).values()];
  const hpa = render(...REDIS, "autoscaling.kind=hpa").get("HorizontalPodAutoscaler")!;
  const [, shown] = /```yaml\n(apiVersion: apps\/v1\n[^`]*)```/.exec(
    readFileSync(repositoryFile("docs/guides/deploy.md"), "utf8"),
  )!;
  const right = [
    ...[...own, ...full, hpa, ...render(...FULL).values()],
    ...["store.lmdb.storageClass=fast", "metrics.vllmNames=true"].flatMap((one) => [...render(one).values()]),
    ...render("store.kind=redis", "store.redis.existingSecret=mine", "replicas=3").values(),
    parse(shown!, { version: "1.1" }) as KubernetesObject,
  ];
  const typos = [...own, ...full, hpa]
    .flatMap((object) => [...misspelt(object)].map((typo) => ({ ...typo, kind: object.kind })))
    .filter(({ path }) => !FREE.test(path) && path !== ".apiVersion" && path !== ".kind");
  t.ok(typos.length > 300);
  const workload = render(...REDIS).get("Deployment")!;
  const wrong = [
    { ...workload, spec: { ...workload.spec, replicas: "2" } },
    { ...workload, spec: { ...workload.spec, selector: undefined } },
    { ...workload, apiVersion: "apps/v2" },
  ];

  const errors = typeErrors([...right, ...wrong, ...typos.map(({ object }) => object)]);
  right.forEach(({ kind }, index) => t.same(errors[index], [], kind));
  wrong.forEach((_, index) => t.not(errors[right.length + index]!.length, 0));
  t.same(
    typos.filter((_, index) => errors[right.length + wrong.length + index]!.length === 0).map((typo) => typo.path),
    [],
    "a misspelt field is an error, wherever it is",
  );
  for (const { kind, spec } of [...own, ...full])
    if (kind === "Deployment" || kind === "StatefulSet")
      t.match(spec.template.metadata.labels, spec.selector.matchLabels);
});
