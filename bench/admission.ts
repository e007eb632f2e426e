/**
 * How much does a prefix delay the first token, if it is in the host cache, and if it is not?
 *
 *     npm run bench -- admission        (needs redis-server)
 *
 * Two real servers with GPT-2 small, one on LMDB and one on redis-server, are asked over loopback for one token each;
 * the time is that of the whole response. A cold prefix is one not requested before: it is found, read, hashed,
 * compared with its digest, and copied into its row. LMDB's files are in the page cache, since they have just been
 * written.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { kvBytes, prefixDigest } from "../src/prefixes/digest.ts";
import { openLmdbStore } from "../src/lmdb/prefix-store.ts";
import { openRedisStore } from "../src/redis/prefix-store.ts";
import type { PrefixStore } from "../src/prefixes/store.ts";
import { startRedis } from "../test/support/redis.ts";
import { startServerProcess, type TestServer } from "../test/support/server.ts";
import { fillStore } from "./support/fill-store.ts";
import { CACHE, openSized, promptIds, randomPrefix, servableCheckpoint, THREADS } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";

const LENGTHS = [10, 50, 200] as const;
const ASKED = 2;
const PROMPT = 64;
const ROUNDS = Number(process.env["ROUNDS"] ?? 24);
/**
 * Pairs of requests without a prefix and with a hot one of 10, one after the other: the smallest difference needs the
 * most samples.
 */
const PAIRS = 5 * ROUNDS;
const PAIR_LENGTH = 10;

const folder = mkdtempSync(join(tmpdir(), "prefixd-admission-"));
const redis = await startRedis();
const model = await servableCheckpoint("gpt2");
const checkpoint = await openCheckpoint(model, { cacheDir: CACHE });
await checkpoint.close();

interface Side {
  readonly name: string;
  readonly server: TestServer;
}

const sides: Side[] = [];
for (const [name, url] of [
  ["LMDB", `lmdb:${join(folder, "store")}`],
  ["Redis", redis.url],
] as const) {
  const store = await (name === "LMDB" ? openLmdbStore({ dir: join(folder, "store") }) : openRedisStore({ url }));
  await register(store);
  await store.close();
  process.stderr.write(`${name} filled\n`);
  sides.push({
    name,
    server: await startServerProcess([
      "--model",
      model,
      "--cache-dir",
      CACHE,
      "--store",
      url,
      "--threads",
      String(THREADS),
    ]),
  });
}

/** Milliseconds by store and case. */
const times = new Map<string, number[]>();
const note = (key: string, value: number): void => void times.set(key, [...(times.get(key) ?? []), value]);
for (const { server } of sides) for (const length of LENGTHS) await ask(server, `hot-${length}-0`);
for (let round = 0; round < ROUNDS; round++) {
  for (const { name, server } of sides) {
    const cases = [null, ...LENGTHS.flatMap((length) => [`hot-${length}`, `cold-${length}`])];
    // Rotate the order each round; the other server's threads spin a little after its turn.
    const turn = [...cases.slice(round % cases.length), ...cases.slice(0, round % cases.length)];
    await ask(server, null);
    for (const one of turn)
      note(`${name} ${one}`, await ask(server, one === null ? null : `${one}-${one.startsWith("hot") ? 0 : round}`));
    for (let pair = 0; pair < PAIRS / ROUNDS; pair++) {
      const [first, second] = pair % 2 === 0 ? [null, `hot-${PAIR_LENGTH}-0`] : [`hot-${PAIR_LENGTH}-0`, null];
      const [one, other] = [await ask(server, first), await ask(server, second)];
      const [without, withPrefix] = first === null ? [one, other] : [other, one];
      note(`${name} added`, (withPrefix - without) / without);
    }
  }
  process.stderr.write(`round ${round + 1} of ${ROUNDS}\n`);
}
for (const { name, server } of sides) {
  const misses = await server.metric("prefixd_prefix_cache_misses_total");
  if (misses !== LENGTHS.length * (1 + ROUNDS))
    throw new Error(
      `${name}: ${misses} prefixes were loaded from the store: hot ones were not hot, or cold ones not cold`,
    );
  server.signal("SIGTERM");
  await server.exited;
}
await redis.stop();
rmSync(folder, { recursive: true });

const own = await modelsOwn();
const hashing: number[] = [];
for (const length of LENGTHS) hashing.push(await hashTime(length));
const mid = (key: string): number => median(times.get(key)!);
const added = (key: string, name: string): string => {
  const base = mid(`${name} null`);
  return `${(mid(key) - base).toFixed(1)} ms (${(100 * (mid(key) / base - 1)).toFixed(1)} %)`;
};
const rows = LENGTHS.map((length, index) => [
  length,
  `${((length * 8 * checkpoint.shape.layers * checkpoint.shape.width) / 1e6).toFixed(1)} MB`,
  ...sides.flatMap(({ name }) => [added(`${name} hot-${length}`, name), added(`${name} cold-${length}`, name)]),
  `${hashing[index]!.toFixed(1)} ms`,
]);
const percent = (value: number): string => (100 * value).toFixed(2);
const interval = (values: readonly number[]): string => {
  const { middle, low, high } = medianInterval(values);
  return `${percent(middle)} % (95 % interval of the median ${percent(low)} to ${percent(high)})`;
};
const verdicts = sides.map(({ name }) => {
  const { low, high } = medianInterval(times.get(`${name} added`)!);
  const met = 100 * high < ASKED ? "met" : 100 * low > ASKED ? "not met" : "not decided by this run";
  return `${name}: ${interval(times.get(`${name} added`)!)}, ${met}.`;
});
writeSection("admission", [
  `GPT-2 small (124M, random weights), fp32, ${THREADS} threads, an idle server, prompt of ${PROMPT}, one new token, over HTTP on loopback; medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
  "",
  `Goal: a hot prefix of ${PAIR_LENGTH} adds less than ${ASKED} % to the time to first token. Of ${PAIRS} pairs of requests with and without it: ${verdicts.join(" ")}`,
  "",
  `The share that is not the server's, from as many pairs of prompts with the runner alone: attention to ${PAIR_LENGTH} more positions, ${interval(own.attention)}, and copying the prefix into its row, ${percent(median(own.copy))} %.`,
  "",
  `Without a prefix the first token takes ${sides.map(({ name }) => `${mid(`${name} null`).toFixed(1)} ms (${name})`).join(", ")}. A prefix adds:`,
  "",
  ...table(
    [
      "P",
      "keys and values",
      ...sides.flatMap(({ name }) => [`${name}, hot`, `${name}, cold`]),
      "of a cold one: sha256",
    ],
    rows,
  ),
]);
console.log(
  rows.map((row) => row.join("  ")).join("\n"),
  `\n${verdicts.join("\n")}\nattention ${interval(own.attention)}, copy ${percent(median(own.copy))} %`,
);
process.exit(0);

async function register(store: PrefixStore): Promise<void> {
  for (const length of LENGTHS) {
    await fillStore(store, checkpoint, { name: `hot-${length}`, length, count: 1 });
    await fillStore(store, checkpoint, { name: `cold-${length}`, length, count: ROUNDS, seed: 1 });
  }
}

/** Milliseconds until the response with its single token. */
async function ask(server: TestServer, prefix: string | null): Promise<number> {
  const started = performance.now();
  const { status, body } = await server.json("/generate", {
    prompt: [...promptIds(PROMPT, 1)],
    prefix_id: prefix,
    max_new_tokens: 1,
    ignore_eos: true,
  });
  const elapsed = performance.now() - started;
  if (status !== 200) throw new Error(JSON.stringify(body));
  return elapsed;
}

/** What a prefix adds to a prompt without a server, relative to the prompt's time without it. */
async function modelsOwn(): Promise<{ readonly attention: number[]; readonly copy: number[] }> {
  await using bare = await openSized("gpt2", 1, "fp32");
  const prefix = randomPrefix(bare.shape, PAIR_LENGTH, 1);
  const ids = promptIds(PROMPT, 1);
  const prefill = async (start: number): Promise<number> => {
    const started = performance.now();
    await bare.runner.prefill(0, start, ids, "last");
    return performance.now() - started;
  };
  const [attention, copy]: [number[], number[]] = [[], []];
  for (let pair = 0; pair < PAIRS; pair++) {
    const before = pair % 2 === 0 ? await prefill(0) : null;
    const started = performance.now();
    bare.runner.loadPrefix(0, prefix);
    const copied = performance.now() - started;
    const behind = await prefill(PAIR_LENGTH);
    const without = before ?? (await prefill(0));
    attention.push((behind - without) / without);
    copy.push(copied / without);
  }
  return { attention, copy };
}

/** Median milliseconds for a prefix's digest. */
async function hashTime(length: number): Promise<number> {
  const kv = kvBytes(randomPrefix(checkpoint.shape, length, 1));
  const spent: number[] = [];
  for (let i = 0; i < 9; i++) {
    const started = performance.now();
    await prefixDigest(checkpoint.shape, length, kv);
    spent.push(performance.now() - started);
  }
  return median(spent);
}

/** The median with its 95 % interval by the sign test: order statistics n/2 ± 0.98 √n. */
function medianInterval(values: readonly number[]): { middle: number; low: number; high: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const half = 0.98 * Math.sqrt(sorted.length);
  const at = (index: number): number => sorted[Math.max(0, Math.min(sorted.length - 1, Math.round(index)))]!;
  return { middle: median(sorted), low: at(sorted.length / 2 - half - 1), high: at(sorted.length / 2 + half) };
}
