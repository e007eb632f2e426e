/**
 * Where does the memory go? RSS of the real server (GPT-2 small, 32 slots) after start, with every slot busy, and with
 * full contexts; then the demo server with an empty store and with 10,000 registered prefixes, unused and used.
 *
 *     npm run bench -- memory        (Linux: reads /proc)
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { openLmdbStore } from "../src/lmdb/prefix-store.ts";
import { fillStore } from "./support/fill-store.ts";
import { CACHE, DEMO, promptIds, servableCheckpoint } from "./support/gpt2.ts";
import { machine, table, writeSection } from "./support/report.ts";
import { build, CLI, listening } from "./support/server-process.ts";

const SLOTS = 32;
const PREFIXES = 10_000;
const CACHE_BYTES = 16 << 20;
const folder = mkdtempSync(join(tmpdir(), "prefixd-memory-"));
const rows: (string | number)[][] = [];
build();

interface Memory {
  readonly rss: number;
  /** Private memory: heaps, KV cache, pre-packed weights. */
  readonly anonymous: number;
  /** Pages of mapped files: weights, LMDB, libraries. The system reclaims them under pressure. */
  readonly file: number;
}

const gpt2 = await servableCheckpoint("gpt2");
{
  const server = await start([
    "--model",
    gpt2,
    "--cache-dir",
    CACHE,
    "--store",
    `lmdb:${join(folder, "gpt2")}`,
    "--threads",
    "2",
  ]);
  note("GPT-2 small, after start", server.memory());
  await server.generate(promptIds(40, 0), 4);
  note("after the first request", server.memory());
  // Prefill takes chunks of 64 tokens, one per step: the answers are long enough for all slots to be busy together.
  for (const [prompt, answer] of [
    [40, 74],
    [480, 544],
  ] as const) {
    const busy = Array.from({ length: SLOTS }, (_, seed) => server.generate(promptIds(prompt, seed), answer));
    await Promise.all(busy);
    note(`after ${SLOTS} slots busy at once, contexts of up to ${prompt + answer}`, server.memory());
  }
  await server.stop();
}
{
  const checkpoint = await openCheckpoint(DEMO, { cacheDir: CACHE });
  await checkpoint.close();
  const flags = ["--cache-dir", CACHE, "--prefix-cache-bytes", String(CACHE_BYTES)];
  const empty = await start([...flags, "--store", `lmdb:${join(folder, "empty")}`]);
  await empty.generate(
    promptIds(20, 0).map((id) => id % 4000),
    4,
    null,
  );
  note("demo model, empty store", empty.memory());
  await empty.stop();
  const filled = join(folder, "filled");
  const store = await openLmdbStore({ dir: filled });
  await fillStore(store, checkpoint, { name: "p", length: 2, count: PREFIXES });
  await store.close();
  const server = await start([...flags, "--store", `lmdb:${filled}`]);
  await server.generate(
    promptIds(20, 0).map((id) => id % 4000),
    4,
    null,
  );
  note(`demo model, ${PREFIXES.toLocaleString("en")} registered prefixes`, server.memory());
  for (let at = 0; at < PREFIXES; at += 100) {
    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        server.generate(
          promptIds(5, i).map((id) => id % 4000),
          1,
          `p-${at + i}`,
        ),
      ),
    );
  }
  note("after each of them was used once", server.memory());
  rows.push([
    `host cache then (bound ${mib(CACHE_BYTES)} MiB)`,
    mib(await server.metric("prefixd_prefix_cache_bytes")),
    "",
    "",
  ]);
  await server.stop();
}
rmSync(folder, { recursive: true });

writeSection("memory", [
  `In MiB. ${machine()}.`,
  "",
  ...table(["state", "RSS", "of it private", "of it mapped files"], rows),
]);
console.log(rows.map((row) => row.join("  ")).join("\n"));

function note(state: string, { rss, anonymous, file }: Memory): void {
  rows.push([state, mib(rss), mib(anonymous), mib(file)]);
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(0);
}

async function start(flags: readonly string[]) {
  const child = spawn(process.execPath, [CLI, "serve", "--port", "0", "--log-level", "info", ...flags], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(child, "exit");
  const url = await listening(child.stdout, exited);
  return {
    memory: (): Memory => {
      const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
      const read = (name: string): number =>
        1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1]);
      return { rss: read("VmRSS"), anonymous: read("RssAnon"), file: read("RssFile") };
    },
    async generate(prompt: Int32Array, maxNewTokens: number, prefix: string | null = null): Promise<void> {
      const body = JSON.stringify({
        prompt: [...prompt],
        max_new_tokens: maxNewTokens,
        prefix_id: prefix,
        ignore_eos: true,
      });
      const response = await fetch(`${url}/generate`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body,
      });
      if (!response.ok) throw new Error(await response.text());
      await response.arrayBuffer();
    },
    async metric(name: string): Promise<number> {
      const text = await (await fetch(`${url}/metrics`)).text();
      return Number(new RegExp(`^${name} (.+)$`, "m").exec(text)?.[1]);
    },
    async stop(): Promise<void> {
      child.kill("SIGTERM");
      await exited;
    },
  };
}
