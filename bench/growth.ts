/**
 * How do speed and latency grow with the number of slots, the context length, and the number of registered prefixes?
 *
 *     npm run bench -- growth        (Linux: fills the large stores in /dev/shm, where PUTs do not wait for a disk)
 *
 * Slots and contexts: GPT-2 small through the engine, every slot busy. Registered prefixes: the demo model behind HTTP
 * on LMDB, with prefixes of one virtual token requested uniformly, so that store and host cache weigh as much as they
 * can. All variants take turns in every round. Quantiles are over the steps of all rounds.
 */
import { cpSync, mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { openLmdbStore } from "../src/lmdb/prefix-store.ts";
import { startServerProcess, type TestServer } from "../test/support/server.ts";
import { interTokenTimes } from "./support/busy-rows.ts";
import { fillStore } from "./support/fill-store.ts";
import { CACHE, DEMO, openSized, randomPrefix, THREADS } from "./support/gpt2.ts";
import { linePlot } from "../src/reporting/plot.ts";
import { machine, median, quantile, table, writePlot, writeSection } from "./support/report.ts";
import { uniformLoad } from "./support/uniform-load.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 3);
const SLOTS: readonly number[] = [1, 2, 4, 8, 16, 32, 64, 128];
const SLOTS_CONTEXT = 64;
const CONTEXTS: readonly number[] = [64, 256, 512, 1024];
const CONTEXTS_ROWS = 32;
const STEPS = 20;
/**
 * Positions of a row besides the prefix: a prompt of 4, and one token per step from the first row's start to the last
 * step.
 */
const NOT_PREFIX = 32;
const REGISTERED: readonly number[] = [1, 100, 10_000, 100_000];
const ON_DISK = 100;
const LOAD = { clients: 16, requests: 480, newTokens: 16, prompt: Array.from({ length: 8 }, (_, index) => 17 + index) };
const WARM_UP = 64;
/** A doubling of the slots (or of the other variable) that gains less than this is past the bend. */
const BEND = 1.25;

interface Point {
  readonly at: number;
  readonly tokensPerSecond: number;
  readonly p50: number;
  readonly p99: number;
}

const { slots, contexts } = await engineCurves();
const { registered, stores, hitShares, firstTokens } = await registeredCurve();

const cells = ({ at, tokensPerSecond, p50, p99 }: Point): string[] => [
  at.toLocaleString("en"),
  tokensPerSecond.toFixed(0),
  `${p50.toFixed(1)} ms`,
  `${p99.toFixed(1)} ms`,
];
const head = (name: string): string[] => [name, "tokens/s", "p50 ITL", "p99 ITL"];
const registeredRows = registered.map((point, index) => {
  const { seconds, bytes, count } = stores[index]!;
  return [
    ...cells(point),
    `${quantile(firstTokens[index]!, 0.5).toFixed(1)} ms`,
    `${quantile(firstTokens[index]!, 0.99).toFixed(1)} ms`,
    `${(100 * hitShares[index]!).toFixed(0)} %`,
    `${seconds.toFixed(1)} s`,
    `${(bytes / 2 ** 20).toFixed(1)} MiB`,
    `${(bytes / count / 1024).toFixed(1)} KiB`,
  ];
});
const curves = [
  { file: "growth-slots", title: "All slots busy", label: "slots", points: slots },
  { file: "growth-context", title: `${CONTEXTS_ROWS} slots busy`, label: "tokens of context", points: contexts },
  {
    file: "growth-registered",
    title: "Uniform requests over registered prefixes",
    label: "registered prefixes",
    points: registered,
  },
];
for (const { file, title, label, points } of curves) {
  const series = [
    { name: "tokens/s", points: points.map(({ at, tokensPerSecond }) => [at, tokensPerSecond] as [number, number]) },
    { name: "p99 ITL, ms", points: points.map(({ at, p99 }) => [at, p99] as [number, number]) },
  ];
  writePlot(file, linePlot({ title, x: { label, log: true }, y: { label: "tokens/s; ms", log: true }, series }));
}
const plot = (file: string): string => `![tokens/s and p99 inter-token latency](plots/${file}.svg)`;
const sentences = [slotsBend(), contextBend(), registeredBend()];
const diskRate = stores.find(({ count }) => count === ON_DISK)!;
const memoryRate = stores.at(-1)!;
writeSection("growth", [
  `Medians and quantiles of ${ROUNDS} interleaved rounds; ${THREADS} threads. ITL: inter-token latency. ${machine()}.`,
  "",
  "Question: how does cost grow, and where does it bend? No bound was set.",
  "",
  `**Slots.** GPT-2 small (124M, random weights), fp32, through the engine, all slots busy, contexts of about ${SLOTS_CONTEXT}. ${sentences[0]}`,
  "",
  ...table(head("slots"), slots.map(cells)),
  "",
  plot("growth-slots"),
  "",
  `**Context.** The same with ${CONTEXTS_ROWS} slots busy. ${sentences[1]}`,
  "",
  ...table(head("context"), contexts.map(cells)),
  "",
  plot("growth-context"),
  "",
  `**Registered prefixes.** Demo model behind HTTP on LMDB, prefixes of one virtual token of one user, drawn uniformly by ${LOAD.clients} streaming clients, ${LOAD.newTokens} tokens a request. ${sentences[2]}`,
  "",
  ...table(
    [...head("prefixes"), "p50 TTFT", "p99 TTFT", "found in the host cache", "registered in", "on disk", "a prefix"],
    registeredRows,
  ),
  "",
  `A PUT is on disk before it is answered: ${((1000 * diskRate.seconds) / diskRate.count).toFixed(1)} ms each for the first ${ON_DISK}. The larger stores were filled in memory (${((1000 * memoryRate.seconds) / memoryRate.count).toFixed(2)} ms each) and copied to the disk.`,
  "",
  plot("growth-registered"),
]);
console.log([...slots, ...contexts].map((point) => cells(point).join("  ")).join("\n"));
console.log(registeredRows.map((row) => row.join("  ")).join("\n"), `\n${sentences.join("\n")}`);
process.exit(0);

async function engineCurves(): Promise<{ slots: Point[]; contexts: Point[] }> {
  await using model = await openSized("gpt2", Math.max(...SLOTS));
  const { runner, shape } = model;
  const cases = [
    ...SLOTS.map((rows) => ({ rows, context: SLOTS_CONTEXT })),
    ...CONTEXTS.map((context) => ({ rows: CONTEXTS_ROWS, context })),
  ];
  const times: number[][] = cases.map(() => []);
  const rates: number[][] = cases.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, { rows, context }] of cases.entries()) {
      const seen = await interTokenTimes(runner, rows, randomPrefix(shape, context - NOT_PREFIX, 1), STEPS);
      times[index]!.push(...seen);
      rates[index]!.push((1000 * rows * seen.length) / seen.reduce((sum, one) => sum + one, 0));
    }
    process.stderr.write(`slots and contexts, round ${round + 1} of ${ROUNDS}\n`);
  }
  const points = cases.map(({ rows, context }, index) => ({
    at: index < SLOTS.length ? rows : context,
    ...summary(rates[index]!, times[index]!),
  }));
  return { slots: points.slice(0, SLOTS.length), contexts: points.slice(SLOTS.length) };
}

function summary(rates: readonly number[], times: readonly number[]): Omit<Point, "at"> {
  return { tokensPerSecond: median(rates), p50: quantile(times, 0.5), p99: quantile(times, 0.99) };
}

async function registeredCurve() {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-growth-"));
  const checkpoint = await openCheckpoint(DEMO, { cacheDir: CACHE });
  await checkpoint.close();
  const stores: { count: number; seconds: number; bytes: number }[] = [];
  const servers: TestServer[] = [];
  for (const count of REGISTERED) {
    const dir = join(folder, String(count));
    const fillDir = count > ON_DISK ? mkdtempSync("/dev/shm/prefixd-growth-") : dir;
    const started = performance.now();
    const store = await openLmdbStore({ dir: fillDir });
    await fillStore(store, checkpoint, { name: "p", length: 1, count });
    await store.close();
    const seconds = (performance.now() - started) / 1000;
    if (fillDir !== dir) {
      cpSync(fillDir, dir, { recursive: true });
      rmSync(fillDir, { recursive: true });
    }
    stores.push({ count, seconds, bytes: bytesOf(dir) });
    servers.push(
      await startServerProcess(["--cache-dir", CACHE, "--store", `lmdb:${dir}`, "--threads", String(THREADS)]),
    );
    process.stderr.write(`${count} registered\n`);
  }
  const random = seeded();
  const [rates, times, firstTokens]: [number[][], number[][], number[][]] = [
    REGISTERED.map(() => []),
    REGISTERED.map(() => []),
    REGISTERED.map(() => []),
  ];
  for (let round = 0; round < ROUNDS; round++) {
    for (const [index, { url }] of servers.entries()) {
      const load = { ...LOAD, url, prefix: () => `p-${Math.floor(random() * REGISTERED[index]!)}` };
      await uniformLoad({ ...load, requests: WARM_UP });
      const { tokensPerSecond, interToken, firstToken } = await uniformLoad(load);
      rates[index]!.push(tokensPerSecond);
      times[index]!.push(...interToken);
      firstTokens[index]!.push(...firstToken);
    }
    process.stderr.write(`registered prefixes, round ${round + 1} of ${ROUNDS}\n`);
  }
  const hitShares: number[] = [];
  for (const server of servers) {
    const [hits, misses] = [
      await server.metric("prefixd_prefix_cache_hits_total"),
      await server.metric("prefixd_prefix_cache_misses_total"),
    ];
    hitShares.push(hits / (hits + misses));
    server.signal("SIGTERM");
    await server.exited;
  }
  rmSync(folder, { recursive: true });
  return {
    registered: REGISTERED.map((at, index) => ({ at, ...summary(rates[index]!, times[index]!) })),
    stores,
    hitShares,
    firstTokens,
  };
}

function slotsBend(): string {
  const past = slots.findIndex(
    (point, index) => index > 0 && point.tokensPerSecond < BEND * slots[index - 1]!.tokensPerSecond,
  );
  const [one, half, full] = [slots[0]!, slots.at(-2)!, slots.at(-1)!];
  const perRow = (full.p50 - half.p50) / (full.at - half.at);
  const where =
    past < 0
      ? `Every doubling up to ${full.at} brings at least ${BEND}-fold tokens/s`
      : `It bends at ${slots[past - 1]!.at} slots: the next doubling brings less than ${BEND}-fold tokens/s`;
  return `${where}, and from 1 to ${full.at} tokens/s grow ${(full.tokensPerSecond / one.tokensPerSecond).toFixed(1)}-fold while p99 grows ${(full.p99 / one.p99).toFixed(1)}-fold. A step of one row takes ${one.p50.toFixed(1)} ms, nearly all of it reading the weights, which further rows share; a row beyond ${half.at} adds ${perRow.toFixed(2)} ms of arithmetic and keys and values of its own, so that about ${(one.p50 / perRow).toFixed(0)} rows cost as much as the weights.`;
}

function contextBend(): string {
  const [short, long] = [contexts[0]!, contexts.at(-1)!];
  const perToken = (long.p50 - short.p50) / (long.at - short.at);
  const without = short.p50 - perToken * short.at;
  const off = Math.max(...contexts.map(({ at, p50 }) => Math.abs(p50 / (without + perToken * at) - 1)));
  return `The time of a step is a straight line (all points within ${(100 * off).toFixed(0)} % of it), so tokens/s bend where attention costs as much as the rest, at ${(without / perToken).toFixed(0)} positions: a step takes about ${without.toFixed(0)} ms and ${(1000 * perToken).toFixed(0)} µs for each position of context, because all that grows is attention to the keys and values of ${CONTEXTS_ROWS} rows. At ${long.at} tokens/s are ${(long.tokensPerSecond / short.tokensPerSecond).toFixed(2)} of those at ${short.at}.`;
}

function registeredBend(): string {
  const [one, most] = [registered[0]!, registered.at(-1)!];
  return `With ${most.at.toLocaleString("en")} tokens/s are ${(most.tokensPerSecond / one.tokensPerSecond).toFixed(2)} and p99 ITL is ${(most.p99 / one.p99).toFixed(2)} of those with one: what changes is the share found in the host cache (${(100 * hitShares[0]!).toFixed(0)} % to ${(100 * hitShares.at(-1)!).toFixed(0)} %). A prefix that is not there is read from LMDB by a thread of its own and hashed on the event loop before its request is queued, while the others' steps go on; from ${registered.at(-2)!.at.toLocaleString("en")} to ${most.at.toLocaleString("en")}, where nearly all are read anew, only the tree is larger, and tokens/s are ${(most.tokensPerSecond / registered.at(-2)!.tokensPerSecond).toFixed(2)}.`;
}

/** Disk usage of a folder's files in bytes. */
function bytesOf(dir: string): number {
  return readdirSync(dir, { recursive: true, encoding: "utf8" }).reduce(
    (sum, file) => sum + 512 * statSync(join(dir, file)).blocks,
    0,
  );
}

/** Uniform in [0, 1), seeded: the Lehmer generator. */
function seeded(): () => number {
  let state = 1;
  return () => (state = (state * 48271) % 2147483647) / 2147483647;
}
