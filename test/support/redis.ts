import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import { freePort } from "./free-port.ts";
import { has, reasonFor } from "./requirements.ts";

/** A real Redis on a free loopback port, in its own folder; ended by pid. */
export interface TestRedis {
  readonly url: string;
  readonly port: number;
  signal(signal: NodeJS.Signals): void;
  /** Like a crash: SIGKILL; returns when it is gone. */
  kill(): Promise<void>;
  /** Where its files are. */
  readonly dir: string;
  /** Restarts it on the same port and files, or empty; `args` are added this time. */
  start(options?: { empty?: boolean; args?: readonly string[] }): Promise<void>;
  /** Sends one command over its own connection. */
  command(...words: string[]): Promise<unknown>;
  stop(): Promise<void>;
}

export const startRedis = (...args: string[]): Promise<TestRedis> => startRedisWith({}, ...args);

/** Starts Redis with additional environment variables. */
export async function startRedisWith(env: Readonly<Record<string, string>>, ...args: string[]): Promise<TestRedis> {
  if (!has("redis-server")) throw new Error(`a test that does not say so ${reasonFor("redis-server")}`);
  const dir = mkdtempSync(join(tmpdir(), "prefixd-redis-"));
  const port = await freePort();
  let child: ChildProcess | undefined;
  const command = async (...words: string[]): Promise<unknown> => {
    const client = new Redis({ port, maxRetriesPerRequest: 0, protocol: 2, retryStrategy: () => null });
    client.on("error", () => {});
    try {
      return await client.call(words[0]!, ...words.slice(1));
    } finally {
      client.disconnect();
    }
  };
  const kill = async (): Promise<void> => {
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  };
  const redis: TestRedis = {
    url: `redis://127.0.0.1:${port}`,
    port,
    dir,
    command,
    kill,
    signal: (signal) => void child?.kill(signal),
    start: async ({ empty = false, args: more = [] } = {}) => {
      if (empty) for (const file of readdirSync(dir)) rmSync(join(dir, file), { recursive: true });
      child = spawn(
        "redis-server",
        ["--port", String(port), "--bind", "127.0.0.1", "--dir", dir, "--save", "", ...args, ...more],
        { stdio: "ignore", env: { ...process.env, ...env } },
      );
      for (let attempt = 0; attempt < 100; attempt++) {
        if ((await command("PING").catch(() => null)) === "PONG") return;
        await sleep(50);
      }
      throw new Error("redis-server did not start");
    },
    stop: async () => {
      await kill();
      rmSync(dir, { recursive: true, force: true });
    },
  };
  await redis.start();
  return redis;
}

/** A primary and a replica, and one Sentinel that makes the replica the primary when the primary is killed. */
export async function startSentinelRedis(...args: string[]): Promise<{
  url: string;
  /** Kills the primary; from then on, the Sentinel minds half a second of silence. */
  killPrimary(): Promise<void>;
  primary: TestRedis;
  replica: TestRedis;
  /** How many connections want to be told of a new primary. */
  listeners(): Promise<number>;
  stop(): Promise<void>;
}> {
  const [primary, replica] = [await startRedis(...args), await startRedis(...args)];
  await replica.command("REPLICAOF", "127.0.0.1", String(primary.port));
  const dir = mkdtempSync(join(tmpdir(), "prefixd-sentinel-"));
  const port = await freePort();
  const config = join(dir, "sentinel.conf");
  writeFileSync(
    config,
    [
      `port ${port}`,
      "bind 127.0.0.1",
      `dir ${dir}`,
      `sentinel monitor test-primary 127.0.0.1 ${primary.port} 1`,
      // A primary that only has to wait for a processor is none that is down: what it confirmed then would be lost.
      "sentinel down-after-milliseconds test-primary 600000",
      "sentinel failover-timeout test-primary 10000",
    ].join("\n"),
  );
  const child = spawn("redis-server", [config, "--sentinel"], { stdio: "ignore" });
  const sentinel = new Redis({ port, protocol: 2 });
  sentinel.on("error", () => {});
  const knows = async (): Promise<boolean> =>
    ((await sentinel.call("SENTINEL", "REPLICAS", "test-primary")) as string[][]).some((fields) =>
      fields.join().includes(`master-link-status,ok`),
    );
  for (let attempt = 0; !(await knows()); attempt++) {
    if (attempt > 400) throw new Error("the Sentinel does not find the replica");
    await sleep(50);
  }
  return {
    url: `redis://127.0.0.1:${port}?sentinel=test-primary`,
    killPrimary: async () => {
      await primary.kill();
      await sentinel.call("SENTINEL", "SET", "test-primary", "down-after-milliseconds", "500");
    },
    primary,
    replica,
    listeners: async () => String(await sentinel.call("CLIENT", "LIST")).split(" sub=1 ").length - 1,
    stop: async () => {
      sentinel.disconnect();
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
      await Promise.all([primary.stop(), replica.stop()]);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** A Redis Cluster of two nodes that share the slots. */
export async function startRedisCluster({ replicas = false } = {}): Promise<{
  url: string;
  nodes: readonly TestRedis[];
  stop(): Promise<void>;
}> {
  const nodes: TestRedis[] = [];
  for (let i = 0; i < (replicas ? 4 : 2); i++) {
    nodes.push(
      await startRedis(
        "--cluster-enabled",
        "yes",
        "--cluster-port",
        String(await freePort()),
        "--cluster-require-full-coverage",
        "yes",
      ),
    );
  }
  const [a, b] = nodes as [TestRedis, TestRedis];
  await a.command("CLUSTER", "ADDSLOTSRANGE", "0", "8191");
  await b.command("CLUSTER", "ADDSLOTSRANGE", "8192", "16383");
  for (const node of nodes.slice(1)) {
    const busPort = String(((await node.command("CONFIG", "GET", "cluster-port")) as string[])[1]);
    await a.command("CLUSTER", "MEET", "127.0.0.1", String(node.port), busPort);
  }
  for (let attempt = 0; ; attempt++) {
    const infos = await Promise.all(nodes.map(async (node) => String(await node.command("CLUSTER", "INFO"))));
    if (infos.every((info) => info.includes("cluster_state:ok") && info.includes(`known_nodes:${nodes.length}`))) break;
    if (attempt > 200) throw new Error("the Redis Cluster did not form");
    await sleep(50);
  }
  for (const [i, replica] of nodes.slice(2).entries())
    await replica.command("CLUSTER", "REPLICATE", String(await nodes[i]!.command("CLUSTER", "MYID")));
  return {
    url: `${a.url}?cluster=true`,
    nodes,
    stop: async () => void (await Promise.all(nodes.map((node) => node.stop()))),
  };
}
