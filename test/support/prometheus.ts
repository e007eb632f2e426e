/** A real Prometheus with our rules, which scrapes one server; in the foreground, ended by pid. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { parse, stringify } from "yaml";
import { repositoryFile } from "./docs-block.ts";
import { freePort } from "./free-port.ts";
import { SYSTEM_PATH } from "./requirements.ts";

export interface Prometheus {
  /** The result of an instant query; throws what Prometheus says of one that it refuses. */
  query(
    expr: string,
  ): Promise<readonly { readonly metric: Readonly<Record<string, string>>; readonly value: number }[]>;
  stop(): Promise<void>;
}

/** Scrapes four times a second; resolves once it has taken `scrapes`. */
export async function startPrometheus(target: string, scrapes: number): Promise<Prometheus> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-prometheus-"));
  const port = await freePort();
  const config = parse(readFileSync(repositoryFile("docker/prometheus/prometheus.yml"), "utf8")) as {
    global: object;
    scrape_configs: { job_name: string }[];
  };
  const [{ job_name }] = config.scrape_configs as [{ job_name: string }];
  const own = {
    ...config,
    global: { scrape_interval: "250ms", evaluation_interval: "1s" },
    scrape_configs: [{ job_name, static_configs: [{ targets: [target] }] }],
  };
  writeFileSync(join(folder, "prometheus.yml"), stringify(own));
  copyFileSync(repositoryFile("docker/prometheus/rules.yml"), join(folder, "rules.yml"));
  const child = spawn(
    "prometheus",
    [
      `--config.file=${join(folder, "prometheus.yml")}`,
      `--storage.tsdb.path=${join(folder, "data")}`,
      `--web.listen-address=127.0.0.1:${port}`,
      "--log.level=warn",
    ],
    { env: { ...process.env, PATH: SYSTEM_PATH, GOMAXPROCS: "1" }, stdio: ["ignore", "ignore", "pipe"] },
  );
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  const exited = once(child, "exit");
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await exited;
    rmSync(folder, { recursive: true, force: true });
  };
  const query: Prometheus["query"] = async (expr) => {
    const url = `http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(expr)}`;
    const answer = (await (await fetch(url)).json()) as {
      status: string;
      error?: string;
      data: { result: { metric: Record<string, string>; value: [number, string] }[] };
    };
    if (answer.status !== "success") throw new Error(`${expr}: ${answer.error}`);
    return answer.data.result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }));
  };
  for (let attempt = 0; child.exitCode === null && attempt < 400; attempt++) {
    const taken = await query(`count_over_time(up{job="${job_name}"}[10m])`).catch(() => []);
    if ((taken[0]?.value ?? 0) >= scrapes) return { query, stop };
    await sleep(50);
  }
  await stop();
  throw new Error(`Prometheus did not scrape ${target}: ${said}`);
}

/** promtool's exit code and everything that it says. */
export function promtool(args: readonly string[], input = ""): { status: number | null; said: string } {
  const { status, stdout, stderr } = spawnSync("promtool", args, {
    cwd: repositoryFile("docker/prometheus"),
    env: { ...process.env, PATH: SYSTEM_PATH },
    input,
    encoding: "utf8",
  });
  return { status, said: `${stdout}${stderr}` };
}
