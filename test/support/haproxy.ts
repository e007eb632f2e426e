/** A real HAProxy with the configuration in docker/, in front of our replicas; runs in the foreground, ended by pid. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryFile } from "./docs-block.ts";
import { freePort } from "./free-port.ts";
import { SYSTEM_PATH } from "./requirements.ts";

export const HAPROXY_CONFIG = repositoryFile("docker/haproxy.cfg");

const ENVIRONMENT = { ...process.env, PATH: SYSTEM_PATH };

/** HAProxy's check of a configuration: exit code and messages. */
export function checkConfig(
  file: string,
  env: Readonly<Record<string, string>> = {},
): { status: number | null; text: string } {
  const { status, stderr } = spawnSync("haproxy", ["-c", "-f", file], {
    env: { ...ENVIRONMENT, ...env },
    encoding: "utf8",
  });
  return { status, text: stderr };
}

export interface TestBalancer {
  readonly url: string;
  /** Sends one command to the admin socket; returns the reply. */
  command(line: string): Promise<string>;
  /**
   * Resolves when by its own counts it has no request and all replicas are up: a prefix's next request then goes to its
   * own replica.
   */
  idle(): Promise<void>;
  stop(): Promise<void>;
}

/** Resolves when it listens. `ports` are those of the three replicas. */
export async function startHaproxy(ports: readonly number[]): Promise<TestBalancer> {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-haproxy-"));
  const [port, socket] = [await freePort(), join(folder, "socket")];
  const replicas = Object.fromEntries(ports.map((replica, index) => [`REPLICA_${index + 1}`, `127.0.0.1:${replica}`]));
  const child = spawn("haproxy", ["-db", "-f", HAPROXY_CONFIG], {
    env: { ...ENVIRONMENT, ...replicas, BALANCER_BIND: `127.0.0.1:${port}`, HAPROXY_SOCKET: socket },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
  const exited = once(child, "exit");
  const command = (line: string): Promise<string> =>
    new Promise((resolve, reject) => {
      let text = "";
      const connection = connect(socket, () => connection.write(`${line}\n`));
      connection.setEncoding("utf8").on("data", (piece: string) => (text += piece));
      connection.once("end", () => resolve(text)).once("error", reject);
    });
  const balancer: TestBalancer = {
    url: `http://127.0.0.1:${port}`,
    command,
    async idle() {
      while (!isIdle(await command("show stat replicas 6 -1"))) await sleep(5);
    },
    async stop() {
      child.kill("SIGTERM");
      await exited;
      rmSync(folder, { recursive: true, force: true });
    },
  };
  for (let attempt = 0; child.exitCode === null; attempt++) {
    const answer = await command("show info").catch(() => "");
    if (answer !== "") return balancer;
    if (attempt > 100) break;
    await sleep(50);
  }
  await balancer.stop();
  throw new Error(`haproxy did not start: ${said}`);
}

/**
 * Reads the statistics (CSV) of the backend and its servers. A response's last byte leaves before its request is
 * uncounted.
 */
function isIdle(stat: string): boolean {
  const [head, ...rows] = stat
    .trim()
    .split("\n")
    .map((line) => line.split(","));
  const column = (row: readonly string[], name: string): string => row[head!.indexOf(name)] ?? "";
  return (
    rows.length > 0 &&
    rows.every((row) => column(row, "scur") === "0" && column(row, "qcur") === "0" && column(row, "status") === "UP")
  );
}
