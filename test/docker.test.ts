import { existsSync, readFileSync } from "node:fs";
import t from "tap";
import { parse } from "yaml";
import { ConfigSchema } from "../src/config-schema.ts";
import { flagOf, variableOf } from "../src/config.ts";
import { repositoryFile } from "./support/docs-block.ts";
import { checkConfig, HAPROXY_CONFIG } from "./support/haproxy.ts";
import {
  isIgnored,
  parseCopy,
  parseExec,
  parsePairs,
  parseStages,
  splitOptions,
  type Instruction,
  type Stage,
} from "./support/dockerfile.ts";
import { lacking } from "./support/requirements.ts";

const read = (path: string): string => readFileSync(repositoryFile(path), "utf8");
const DOCKERFILES = ["docker/Dockerfile", "docker/Dockerfile.cuda"];
const IGNORED = read(".dockerignore");

type Property = { readonly type?: string; readonly enum?: readonly string[] };
const SETTINGS = new Map(Object.entries(ConfigSchema.properties as unknown as Record<string, Property>));
const variables = new Map([...SETTINGS].map(([key, property]) => [variableOf(key), property]));
const flags = new Map([...SETTINGS].map(([key, property]) => [flagOf(key), property]));

/** The exact version that a tag names: `24.21.0` of `node:24.21.0-bookworm-slim`. */
const versionOf = (image: string): string | undefined => /^[\w./-]+:(\d+\.\d+\.\d+)(-[\w.-]+)?$/.exec(image)?.[1];
const named = (instructions: readonly Instruction[], name: string): Instruction[] =>
  instructions.filter((instruction) => instruction.name === name);
const only = (stage: Stage, name: string): string => {
  const found = named(stage.instructions, name);
  if (found.length !== 1) throw new Error(`${name}: ${found.length} times`);
  return found[0]!.text;
};

interface Service {
  readonly image: string;
  readonly build?: { readonly context?: string; readonly dockerfile: string };
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly secrets?: readonly string[];
  readonly networks?: readonly string[];
  readonly ports?: readonly string[];
  readonly depends_on?: Readonly<Record<string, unknown>>;
  readonly volumes?: readonly string[];
  readonly tmpfs?: readonly string[];
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly stop_grace_period?: string;
}
interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly networks: Readonly<Record<string, { readonly internal?: boolean } | null>>;
  readonly volumes: Readonly<Record<string, unknown>>;
  readonly secrets: Readonly<Record<string, unknown>>;
}

/** A value that the setting takes. */
const takes = (property: Property, value: string): boolean =>
  property.enum === undefined || property.enum.includes(value);

for (const file of DOCKERFILES) {
  t.test(file, async (t) => {
    const stages = parseStages(read(file));
    const image = stages.at(-1)!;
    const tested = /\.ci\/with-node (\d+) npm test/.exec(read(".ci/run"))![1]!;

    for (const { base } of stages) {
      const version = versionOf(base);
      t.ok(version, `${base} names an exact version`);
      if (base.startsWith("node:"))
        t.equal(version!.split(".")[0], tested, `${base}: CI tests everything on this Node`);
    }
    t.equal(
      new Set(stages.map(({ base }) => base).filter((base) => base.startsWith("node:"))).size,
      1,
      "one Node for all stages",
    );

    for (const [index, stage] of stages.entries()) {
      const earlier = stages.slice(0, index).map(({ name }) => name);
      for (const copy of named(stage.instructions, "COPY").map(parseCopy)) {
        if (copy.from !== null) t.ok(earlier.includes(copy.from), `--from=${copy.from} is an earlier stage`);
        else
          for (const source of copy.sources)
            t.ok(
              existsSync(repositoryFile(source)) && !isIgnored(IGNORED, source),
              `${source} is there for the builder`,
            );
      }
    }
    const entry = parseExec(only(image, "ENTRYPOINT"));
    t.equal(entry[1], (JSON.parse(read("package.json")) as { bin: { prefixd: string } }).bin.prefixd);
    t.same(parseExec(only(image, "CMD")), ["serve"]);

    const environment = Object.fromEntries(named(image.instructions, "ENV").flatMap(parsePairs));
    for (const [name, value] of Object.entries(environment).filter(([name]) => name.startsWith("PREFIXD_"))) {
      const property = variables.get(name);
      t.ok(property !== undefined && takes(property, value), `${name}=${value} is a setting`);
    }
    const volumes = parseExec(only(image, "VOLUME"));
    t.same(
      volumes,
      [environment["PREFIXD_STORE"]?.replace(/^lmdb:/, ""), environment["PREFIXD_CACHE_DIR"]],
      "what is written lies on volumes",
    );
    t.match(only(image, "RUN"), `install -d -o 1000 -g 1000 ${volumes.join(" ")}`, "which belong to the user");
    t.equal(only(image, "USER"), "1000:1000");
    t.equal(only(image, "EXPOSE"), String((SETTINGS.get("port") as { default?: number }).default));

    const health = parseExec(splitOptions(only(image, "HEALTHCHECK")).rest.replace(/^CMD /, "")).join(" ");
    const [, port, path] = /127\.0\.0\.1:\$\{process\.env\.PREFIXD_PORT \|\| (\d+)\}(\/[\w/]+)/.exec(health)!;
    t.equal(port, only(image, "EXPOSE"));
    t.hasOwnProp((parse(read("openapi.yaml")) as { paths: object }).paths, path!, "the health check asks a route");
  });
}

t.test("both images hold the same, but for the device", async (t) => {
  const [cpu, cuda] = DOCKERFILES.map((file) => parseStages(read(file)));
  const lines = (stages: readonly Stage[]): string[] =>
    stages.flatMap(({ instructions }) => instructions.map(({ name, text }) => `${name} ${text}`));
  const extra = lines(cuda!).filter((line) => !lines(cpu!).includes(line));
  t.same(
    lines(cpu!).filter((line) => !lines(cuda!).includes(line) && !line.startsWith("ENV ")),
    [],
  );
  t.same(
    extra.map((line) => line.split(" ", 2).join(" ")),
    ["RUN ONNXRUNTIME_NODE_INSTALL=cuda12", "COPY --from=dependencies", "ENV NODE_ENV=production"],
  );
});

t.test("compose.yaml", async (t) => {
  const { services, networks, volumes, secrets } = parse(read("docker/compose.yaml")) as Compose;
  const { server, redis } = services as { server: Service; redis: Service };
  t.ok(existsSync(repositoryFile(`docker/${server.build!.context}/${server.build!.dockerfile}`)));
  t.ok(versionOf(redis.image), `${redis.image} names an exact version`);

  const [command, ...args] = server.command!;
  t.equal(command, "serve");
  for (const arg of args.filter((text) => text.startsWith("--"))) t.ok(flags.has(arg), `${arg} is a flag`);
  for (const name of Object.keys(server.environment!)) t.ok(variables.has(name), `${name} is a setting`);
  const flag = (name: string): string => args[args.indexOf(name) + 1]!;
  t.equal(new URL(flag("--store")).hostname, "redis");
  t.ok(parseFloat(server.stop_grace_period!) > Number(flag("--drain-timeout")), "it is not killed while it drains");
  t.equal(server.environment!["PREFIXD_ADMIN_KEY_FILE"], `/run/secrets/${server.secrets![0]}`);
  t.hasOwnProp(secrets, server.secrets![0]!);

  for (const [name, service] of Object.entries(services)) {
    t.match(service, { read_only: true, cap_drop: ["ALL"], security_opt: ["no-new-privileges:true"] }, name);
    for (const network of service.networks!) t.hasOwnProp(networks, network);
    for (const volume of service.volumes!) t.hasOwnProp(volumes, volume.split(":")[0]!);
    for (const other of Object.keys(service.depends_on ?? {})) t.hasOwnProp(services, other);
  }
  t.same(
    redis.networks!.filter((network) => networks[network]?.internal !== true),
    [],
    "Redis is on internal networks only",
  );
  t.notOk(redis.ports);
  t.match(redis.command!.join(" "), /--appendonly yes .*--maxmemory-policy noeviction/);
  t.ok(redis.volumes!.some((volume) => volume.endsWith(":/data")));

  const writable = [
    ...server.volumes!.map((volume) => volume.split(":")[1]),
    ...server.tmpfs!.map((mount) => mount.split(":")[0]),
  ];
  const image = parseStages(read("docker/Dockerfile")).at(-1)!;
  t.same(
    parseExec(only(image, "VOLUME")).filter((path) => !writable.includes(path)),
    [],
    "no anonymous volumes",
  );
});

t.test("compose.cuda.yaml changes the server that compose.yaml has", async (t) => {
  const { services } = parse(read("docker/compose.cuda.yaml")) as Compose;
  t.same(Object.keys(services), ["server"]);
  t.ok(existsSync(repositoryFile(services["server"]!.build!.dockerfile)));
});

t.test(
  "compose.replicas.yaml: replicas like compose.yaml's server, and the balancer that haproxy.cfg is for",
  async (t) => {
    const single = (parse(read("docker/compose.yaml")) as Compose).services["server"]!;
    const { services, networks, volumes, secrets } = parse(read("docker/compose.replicas.yaml"), {
      merge: true,
    }) as Compose;
    const names = Object.keys(services).filter((name) => name.startsWith("replica-"));
    t.same(names, ["replica-1", "replica-2", "replica-3"]);
    const shared = Object.fromEntries(
      Object.entries(single).filter(([field]) => field !== "ports" && field !== "networks"),
    );
    for (const name of names) {
      t.match(services[name], shared, `${name} is compose.yaml's server`);
      t.notOk(services[name]!.ports, "only the balancer can be reached");
    }
    const balancer = services["balancer"]!;
    t.ok(versionOf(balancer.image), `${balancer.image} names an exact version`);
    t.match(balancer, { read_only: true, cap_drop: ["ALL"], security_opt: ["no-new-privileges:true"] });
    t.same(Object.keys(balancer.depends_on!), names);
    for (const service of Object.values(services))
      for (const network of service.networks ?? []) t.hasOwnProp(networks, network);
    t.notOk(balancer.networks!.includes("store"), "the balancer does not reach Redis");
    t.equal(networks["store"]!.internal, true);
    for (const volume of names.flatMap((name) => services[name]!.volumes!))
      t.hasOwnProp(volumes, volume.split(":")[0]!);
    t.hasOwnProp(secrets, services["replica-1"]!.secrets![0]!);
    t.ok(existsSync(repositoryFile(`docker/${balancer.volumes![0]!.split(":")[0]!}`)));

    const config = read("docker/haproxy.cfg");
    const listens = /bind "\$\{BALANCER_BIND-:(\d+)\}"/.exec(config)![1];
    t.same(
      balancer.ports!.map((port) => port.split(":").at(-1)),
      [listens],
    );
    const servers = [...config.matchAll(/^ +server (\S+) "\$\{REPLICA_\d-(\S+):(\d+)\}"$/gm)].map(
      ([, name, host, port]) => [name, host, port],
    );
    const image = parseStages(read("docker/Dockerfile")).at(-1)!;
    t.same(
      servers,
      names.map((name) => [name, name, only(image, "EXPOSE")]),
    );
    t.hasOwnProp(
      (parse(read("openapi.yaml")) as { paths: object }).paths,
      /http-check send meth GET uri (\S+)/.exec(config)![1]!,
    );
    t.ok(
      parseFloat(balancer.stop_grace_period!) > Number(/hard-stop-after (\d+)s/.exec(config)![1]),
      "it is not killed while streams end",
    );
  },
);

t.test("haproxy.cfg is valid", { skip: lacking("haproxy") }, async (t) => {
  const addresses = { REPLICA_1: "127.0.0.1:8081", REPLICA_2: "127.0.0.1:8082", REPLICA_3: "127.0.0.1:8083" };
  t.match(checkConfig(HAPROXY_CONFIG, addresses), { status: 0, text: /^((?!WARNING|ALERT)[^])*$/ });
  t.match(
    checkConfig(HAPROXY_CONFIG, { ...addresses, BALANCER_BIND: "nowhere" }),
    { status: 1 },
    "and what is not is found",
  );
});

interface Probe {
  readonly httpGet: { readonly path: string; readonly port: number };
}
interface Pod {
  readonly enableServiceLinks: boolean;
  readonly terminationGracePeriodSeconds: number;
  readonly securityContext: { readonly runAsNonRoot: boolean; readonly runAsUser: number };
  readonly containers: readonly [
    {
      readonly args: readonly string[];
      readonly env: readonly { readonly name: string; readonly value: string }[];
      readonly ports: readonly [{ readonly containerPort: number }];
      readonly startupProbe: Probe;
      readonly livenessProbe: Probe;
      readonly readinessProbe: Probe;
      readonly securityContext: { readonly readOnlyRootFilesystem: boolean };
      readonly volumeMounts: readonly { readonly name: string; readonly mountPath: string }[];
    },
  ];
  readonly volumes: readonly { readonly name: string }[];
}

t.test("the Deployment of docs/guides/deploy.md", async (t) => {
  const block = /```yaml\n(apiVersion: apps\/v1\n[^`]*)```/.exec(read("docs/guides/deploy.md"))![1]!;
  const pod = (parse(block) as { spec: { template: { spec: Pod } } }).spec.template.spec;
  const [server] = pod.containers;
  const image = parseStages(read("docker/Dockerfile")).at(-1)!;
  const { paths } = parse(read("openapi.yaml")) as { paths: object };
  for (const { httpGet } of [server.startupProbe, server.livenessProbe, server.readinessProbe]) {
    t.hasOwnProp(paths, httpGet.path);
    t.equal(httpGet.port, server.ports[0].containerPort);
  }
  t.equal(String(server.ports[0].containerPort), only(image, "EXPOSE"));
  for (const { name } of server.env) t.ok(variables.has(name), `${name} is a setting`);
  for (const arg of server.args.filter((text) => text.startsWith("--"))) t.ok(flags.has(arg), `${arg} is a flag`);
  const seconds = (flag: string): number => Number(server.args[server.args.indexOf(flag) + 1]);
  t.ok(
    pod.terminationGracePeriodSeconds > seconds("--drain-delay") + seconds("--drain-timeout"),
    "it is not killed while it drains",
  );
  t.match(pod, {
    enableServiceLinks: false,
    securityContext: { runAsNonRoot: true, runAsUser: parseInt(only(image, "USER")) },
  });
  t.equal(server.securityContext.readOnlyRootFilesystem, true);
  const mounted = server.volumeMounts.map(({ mountPath }) => mountPath);
  t.same(
    [...parseExec(only(image, "VOLUME")), "/tmp"].filter((path) => !mounted.includes(path)),
    [],
    "what is written is mounted",
  );
  t.same(server.volumeMounts.map(({ name }) => name).sort(), pod.volumes.map(({ name }) => name).sort());
});

t.test("the parser: continued lines, stages, and what it refuses", async (t) => {
  const stages = parseStages("# c\nFROM a:1 AS x\nRUN one \\\n # between\n  && two\n\nFROM b\nCOPY --from=x /a b ./\n");
  t.match(stages, [
    { name: "x", base: "a:1", instructions: [{ line: 3, name: "RUN", text: "one && two" }] },
    { name: "", base: "b" },
  ]);
  t.same(parseCopy(stages[1]!.instructions[0]!), { from: "x", sources: ["/a", "b"], target: "./" });
  t.throws(() => parseStages("RUN x"), /before FROM/);
  t.throws(() => parseStages("FROM a\nRUN x \\"), /continued/);
  t.equal(isIgnored("*\n!src\n", "src/main.ts"), false);
  t.equal(isIgnored("*\n!src\n", "srcs"), true);
  t.equal(isIgnored("*\n!src\nsrc/a", "src/a/b"), true);
  t.throws(() => isIgnored("**/x", "x"), /\.dockerignore/);
});

t.test(
  "compose.watch.yaml: Prometheus scrapes the port that the server opens, Grafana has the dashboard",
  async (t) => {
    const { services, networks, volumes } = parse(read("docker/compose.watch.yaml")) as Compose;
    const { server, prometheus, grafana } = services as Record<"server" | "prometheus" | "grafana", Service>;
    for (const name of Object.keys(server.environment!)) t.ok(variables.has(name), `${name} is a setting`);
    const { scrape_configs } = parse(read("docker/prometheus/prometheus.yml")) as {
      scrape_configs: [{ dns_sd_configs: [{ names: string[]; port: number }] }];
    };
    const [{ names, port }] = scrape_configs[0].dns_sd_configs;
    t.same(names, ["server"]);
    t.equal(String(port), server.environment!["PREFIXD_ADMIN_PORT"]);
    for (const [name, service] of Object.entries({ prometheus, grafana })) {
      t.match(service.image, /:v?\d+\.\d+\.\d+$/, `${name} names an exact version`);
      t.match(service, { read_only: true, cap_drop: ["ALL"], security_opt: ["no-new-privileges:true"] }, name);
      t.ok(
        service.ports!.every((mapping) => mapping.startsWith("127.0.0.1:")),
        `${name}: only this machine can reach it`,
      );
      for (const network of service.networks!) t.hasOwnProp(networks, network);
      for (const mount of service.volumes!) {
        const [from = ""] = mount.split(":");
        if (from.startsWith("./")) t.ok(existsSync(repositoryFile(`docker/${from}`)), `${from} is there`);
        else t.hasOwnProp(volumes, from);
      }
    }
    const mounted = (service: Service, from: string): string | undefined =>
      service.volumes!.find((mount) => mount.startsWith(`${from}:`))?.split(":")[1];
    t.equal(`--config.file=${mounted(prometheus, "./prometheus/prometheus.yml")}`, prometheus.command![0]);
    const { providers } = parse(read("docker/grafana/provisioning/dashboards/prefixd.yaml")) as {
      providers: [{ options: { path: string } }];
    };
    t.equal(providers[0].options.path, mounted(grafana, "./grafana/dashboards"));
    const { datasources } = parse(read("docker/grafana/provisioning/datasources/prometheus.yaml")) as {
      datasources: [{ url: string }];
    };
    t.equal(new URL(datasources[0].url).hostname, "prometheus");
  },
);
