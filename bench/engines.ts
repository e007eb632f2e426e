/**
 * Which engine is faster: prefixd, Hugging Face PEFT, llama.cpp or node-llama-cpp?
 *
 *     [SIZE=small|medium] [PEFT_PYTHON=python] [LLAMA_BATCHED_BENCH=binary] npm run bench -- engines
 *
 * All use the same random weights and two threads, each in its own process, taking turns work by work; medians of the
 * rounds that fit into MINUTES. A ratio is the median of the rounds' ratios. bench/peers/README.md says how to install
 * the others; missing ones are skipped. SIZE=demo runs the demo model to try the machinery, and writes nothing.
 */
import { existsSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { writeGguf, type GgufType } from "./peers/gguf.ts";
import { CONTEXT, SIZE_OF, THREADS, WORKS, type Work } from "./peers/protocol.ts";
import { CACHE, matrixBytes, sizedCheckpoint } from "./support/gpt2.ts";
import { Peer } from "./support/peer.ts";
import { barPlot } from "../src/reporting/plot.ts";
import { machineOfInt8, median, table, writePlot, writeSection } from "./support/report.ts";

const SIZE = process.env["SIZE"] ?? "small";
const ROUNDS = Number(process.env["ROUNDS"] ?? 9);
const MINUTES = Number(process.env["MINUTES"] ?? 6);
/**
 * Load by other processes from which the figures say little: the other engines' threads wait for each other by
 * spinning.
 */
const BUSY = 1;
/** The previous engine's idle threads spin for a while. */
const PAUSE_MS = 250;
const UNITS: Readonly<Record<Work, number>> = {
  "decode-1": 16,
  "decode-8": 16,
  "decode-32": 12,
  "decode-32-different": 12,
  "prefill-64": 3,
  "prefill-256": 2,
};
const TITLES: Readonly<Record<Work, string>> = {
  "decode-1": "decode, 1 row",
  "decode-8": "decode, 8 rows",
  "decode-32": "decode, 32 rows, one prefix",
  "decode-32-different": "decode, 32 rows, 32 prefixes",
  "prefill-64": "prompt of 64",
  "prefill-256": "prompt of 256",
};
const FP32 = "prefixd fp32";
const INT8 = "prefixd int8";
const PEFT = "PEFT fp32";
const LLAMA_F32 = "llama.cpp F32";
const LLAMA_Q8 = "llama.cpp Q8_0";
const NODE_LLAMA = "node-llama-cpp Q8_0";
const MEMORY = "memory, fp32's matrices";

interface Target {
  readonly engine: string;
  readonly work: Work;
  readonly against: string;
  readonly againstWork: Work;
  readonly asked: number;
}
const target = (engine: string, work: Work, against: string, asked: number, againstWork = work): Target => ({
  engine,
  work,
  against,
  againstWork,
  asked,
});
const TARGETS: readonly Target[] = [
  target(FP32, "decode-1", LLAMA_F32, 1.25),
  target(FP32, "decode-8", LLAMA_F32, 1.35),
  target(FP32, "decode-32", LLAMA_F32, 1.4),
  target(INT8, "decode-1", LLAMA_Q8, 1.5),
  target(INT8, "decode-8", LLAMA_Q8, 2),
  target(INT8, "decode-32", LLAMA_Q8, 2),
  target(INT8, "prefill-64", LLAMA_Q8, 2),
  target(INT8, "prefill-256", LLAMA_Q8, 2),
  target(FP32, "decode-32", PEFT, 3),
  target(FP32, "decode-32-different", PEFT, 20),
  target(INT8, "decode-32", PEFT, 3),
  target(INT8, "decode-32-different", PEFT, 20),
  target(FP32, "decode-32-different", FP32, 0.97, "decode-32"),
  target(INT8, "decode-32-different", INT8, 0.97, "decode-32"),
];

const gpt2 = SIZE === "small" ? "gpt2" : `gpt2-${SIZE}`;
const folder = SIZE === "demo" ? new URL("../models/demo", import.meta.url).pathname : await sizedCheckpoint(gpt2);
const loadBefore = loadavg()[0]!;
const peers = await startPeers();
/** Tokens per second by round. */
const rates = new Map<string, number[]>();
const ratesOf = (engine: string, work: Work): readonly number[] => rates.get(`${engine} ${work}`) ?? [];
const started = performance.now();
let rounds = 0;
try {
  while (rounds < ROUNDS && (rounds === 0 || (performance.now() - started) / 60_000 < MINUTES)) {
    for (const work of WORKS) {
      for (const peer of peers) {
        if (!peer.works.has(work)) continue;
        await sleep(PAUSE_MS);
        const rate = (SIZE_OF[work] * UNITS[work]) / (await peer.run(work, UNITS[work]));
        const key = `${peer.name} ${work}`;
        rates.set(key, [...(rates.get(key) ?? []), rate]);
        process.stderr.write(`round ${rounds + 1}, ${work}, ${peer.name}: ${rate.toFixed(1)} tokens/s\n`);
      }
    }
    rounds++;
  }
} finally {
  for (const peer of peers) await peer[Symbol.asyncDispose]();
}
await report();
process.exit(0);

async function startPeers(): Promise<Peer[]> {
  const here = (file: string): string => new URL(`./peers/${file}`, import.meta.url).pathname;
  const tsx = (file: string, ...args: string[]): string[] => [process.execPath, "--import", "tsx", here(file), ...args];
  const python = process.env["PEFT_PYTHON"];
  const llama = process.env["LLAMA_BATCHED_BENCH"];
  const llamaQ8 = process.env["LLAMA_BATCHED_BENCH_Q8"] ?? llama;
  const nodeLlama = existsSync(here("node_modules/node-llama-cpp"));
  const commands: [name: string, command: readonly string[]][] = [];
  commands.push([FP32, tsx("prefixd.ts", folder, "fp32")], [INT8, tsx("prefixd.ts", folder, "int8")]);
  if (python !== undefined) commands.push([PEFT, [python, here("peft_driver.py"), folder]]);
  if (llama !== undefined) commands.push([LLAMA_F32, tsx("llama-batched-bench.ts", llama, await gguf("f32"))]);
  if (llamaQ8 !== undefined) commands.push([LLAMA_Q8, tsx("llama-batched-bench.ts", llamaQ8, await gguf("q8_0"))]);
  if (nodeLlama) commands.push([NODE_LLAMA, tsx("node-llama-cpp.ts", await gguf("q8_0"))]);
  commands.push([MEMORY, tsx("memory.ts", String(await fp32Bytes()))]);
  const peers: Peer[] = [];
  // One after another, because each has work to do at its start.
  for (const [name, command] of commands) peers.push(await Peer.start(name, command));
  return peers;
}

async function fp32Bytes(): Promise<number> {
  const checkpoint = await openCheckpoint(folder, { cacheDir: CACHE });
  await checkpoint.close();
  return matrixBytes(checkpoint.shape, "fp32");
}

/** The checkpoint's weights in llama.cpp's format, written once. */
async function gguf(type: GgufType): Promise<string> {
  const checkpoint = await openCheckpoint(folder, { cacheDir: CACHE });
  try {
    const path = join(CACHE, `${checkpoint.fingerprint.slice(0, 32)}-${type}.gguf`);
    if (!existsSync(path)) await writeGguf(checkpoint, path, type);
    return path;
  } finally {
    await checkpoint.close();
  }
}

async function report(): Promise<void> {
  const engines = peers.map(({ name }) => name).filter((name) => name !== MEMORY);
  const rate = (engine: string, work: Work): string =>
    ratesOf(engine, work).length === 0 ? "" : median(ratesOf(engine, work)).toFixed(0);
  const rows = WORKS.map((work) => [TITLES[work], ...engines.map((engine) => rate(engine, work))]);
  const targets = TARGETS.filter(({ against, againstWork }) => ratesOf(against, againstWork).length > 0).map(targetRow);
  const missing = [PEFT, LLAMA_F32, LLAMA_Q8, NODE_LLAMA].filter((name) => !engines.includes(name));
  const ofMemory = (name: string): string =>
    median(ratesOf(name, "decode-1").map((value, round) => value / ratesOf(MEMORY, "decode-1")[round]!)).toFixed(2);
  const shares = [FP32, LLAMA_F32]
    .filter((name) => engines.includes(name))
    .map((name) => `${name} makes ${ofMemory(name)} of that`);
  const lines = [
    `GPT-2 ${SIZE}, random weights, ${THREADS} threads, about ${CONTEXT} tokens before each decoded one; tokens/s, medians of ${rounds} interleaved rounds. ${await machineOfInt8()}; the machine's load before: ${loadBefore.toFixed(1)}.`,
    ...(loadBefore > BUSY
      ? ["", "**The machine was busy, which slows the others down far more than prefixd: not a fair comparison.**"]
      : []),
    "",
    ...table(["", ...engines], rows),
    "",
    "prefixd: requests through its engine, scheduler and sampler included; PEFT: `generate()`, different prefixes one after the other; llama.cpp: `llama-batched-bench`, no sampling. llama.cpp's have no prefixes: the same number of tokens is prompt.",
    ...(missing.length > 0 ? ["", `Not installed there, so not measured: ${missing.join(", ")}.`] : []),
    "",
    ...table(["what", "against", "goal", "measured", ""], targets),
    "",
    `Upper bound for one row in fp32: ${THREADS} threads that only read the same matrices would make ${rate(MEMORY, "decode-1")} tokens/s; ${shares.join(", ")}.`,
  ];
  console.log(lines.join("\n"));
  if (SIZE === "demo") return console.log("\ndemo model: not written");
  const section = SIZE === "small" ? "engines" : `engines-${SIZE}`;
  const groups = WORKS.filter((work) => work.startsWith("decode")).map((work) => ({
    name: TITLES[work].replace("decode, ", ""),
    bars: engines
      .filter((engine) => ratesOf(engine, work).length > 0)
      .map((engine) => ({ name: engine, value: Math.round(median(ratesOf(engine, work))) })),
  }));
  writePlot(
    section,
    barPlot({ title: `GPT-2 ${SIZE}: decoded tokens/s, ${THREADS} threads`, y: { label: "tokens/s" }, groups }),
  );
  writeSection(section, [...lines, "", `![Decoded tokens per second](plots/${section}.svg)`]);
}

/** The median of the rounds' ratios, and whether it meets the target. */
function targetRow({ engine, work, against, againstWork, asked }: Target): string[] {
  const other = ratesOf(against, againstWork);
  const measured = median(ratesOf(engine, work).map((value, round) => value / other[round]!));
  const what = againstWork === work ? against : TITLES[againstWork].replace("decode, ", "");
  return [
    `${engine}, ${TITLES[work]}`,
    what,
    `>= ${asked}`,
    measured.toFixed(2),
    measured >= asked ? "met" : "not met",
  ];
}
