/**
 * How fast is a GPU: decode and prompts by batch size, against the memory's bandwidth, and by prefix length; where does
 * a step's time go, and how long does admission take; beside PEFT, and beside torch with a static cache and one CUDA
 * graph per step?
 *
 *     DEVICE=webgpu|cuda GPU="name" BANDWIDTH_GBS=number [PRECISION=fp32|fp16] [SIZE=small|medium|...] \
 *       [PEFT_PYTHON=python] [TORCH_PYTHON=python] npm run bench -- device
 *
 * Through the engine, in this process; PEFT in its own, taking turns. BANDWIDTH_GBS is the GPU memory's: a step takes
 * at least as long as reading the weights and its rows' keys and values. SMOKE=1 tries the machinery with the demo
 * model on any GPU adapter, or with DEVICE=simulated on the CPU's kernels, and writes nothing; otherwise software GPU
 * adapters are refused.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { webgpuSkip, SIMULATED } from "../test/support/devices.ts";
import { examineVulkan } from "../src/doctor/vulkan.ts";
import type { ModelShape } from "../src/kv.ts";
import type { Precision } from "../src/model/graph-weights.ts";
import type { Device } from "../src/runtime/device.ts";
import { DEVICES } from "../src/runtime/devices.ts";
import { OrtError } from "../src/runtime/ort-api.ts";
import { CONTEXT } from "./peers/protocol.ts";
import { EngineWorks } from "./support/engine-works.ts";
import { openFolder, promptIds, sizedCheckpoint, THREADS, type BenchModel } from "./support/gpt2.ts";
import { Peer } from "./support/peer.ts";
import { linePlot } from "../src/reporting/plot.ts";
import { machine, median, table, writePlot, writeSection } from "./support/report.ts";

const SMOKE = process.env["SMOKE"] === "1";
const SIZE = process.env["SIZE"] ?? "small";
const KIND = process.env["DEVICE"] ?? "";
const GPU = process.env["GPU"] ?? (SMOKE ? "no GPU" : "");
const BANDWIDTH = Number(process.env["BANDWIDTH_GBS"] ?? (SMOKE ? 1 : 0));
const PRECISION = (process.env["PRECISION"] ?? (KIND === "cuda" ? "fp16" : "fp32")) as Precision;
const ROUNDS = Number(process.env["ROUNDS"] ?? (SMOKE ? 1 : 5));
const MINUTES = Number(process.env["MINUTES"] ?? 6);
const STEPS = Number(process.env["STEPS"] ?? (SMOKE ? 4 : 24));
const BATCHES = SMOKE ? [1, 8] : [1, 8, 32, 128, 512];
const PROMPTS = [64, 256];
/** Requests that arrive together, and the tokens of their prompts. */
const [TOGETHER, TOGETHER_TOKENS] = SMOKE ? [4, 16] : [256, 64];
/** Context lengths of the curve by prefix length; nearly all of it is the prefix. */
const CONTEXTS = SMOKE ? [32, 128] : [32, 64, 128, 256, 512, 960];
const CURVE_ROWS = SMOKE ? 8 : 32;
const PEER_UNITS = 8;
/** Bytes of a weight, and of a number in the KV cache. */
const BYTES: Readonly<Record<Precision, number>> = { fp32: 4, fp16: 2, int8: 1 };
const PAUSE_MS = 250;

if (KIND === "") {
  console.log("device: not measured, no DEVICE=webgpu|cuda was given");
  process.exit(0);
}
const device = chosenDevice();
const folder = SMOKE
  ? new URL("../models/demo", import.meta.url).pathname
  : await sizedCheckpoint(SIZE === "small" ? "gpt2" : `gpt2-${SIZE}`);
const model = await openLargest();
const { shape, runner } = model;
const works = new EngineWorks(runner);
const python = process.env["PEFT_PYTHON"];
const peft =
  python === undefined
    ? null
    : await Peer.start("PEFT", [
        python,
        new URL("./peers/peft_driver.py", import.meta.url).pathname,
        folder,
        SMOKE ? "cpu" : "cuda",
        PRECISION === "fp16" ? "float16" : "float32",
      ]);

const torchPython = process.env["TORCH_PYTHON"];
const torch =
  torchPython === undefined
    ? null
    : await Peer.start("torch", [
        torchPython,
        new URL("./peers/torch_driver.py", import.meta.url).pathname,
        ...[shape.layers, shape.heads, shape.width, shape.vocabSize].map(String),
      ]);

/** Seconds per step, or per prompt, by round. */
const seconds = new Map<string, number[]>();
const note = (name: string, value: number): void => {
  seconds.set(name, [...(seconds.get(name) ?? []), value]);
  process.stderr.write(`${name}: ${(value * 1000).toFixed(3)} ms\n`);
};
const mid = (name: string): number => median(seconds.get(name)!);
const batches = BATCHES.filter((rows) => rows <= runner.slots);
const started = performance.now();
let rounds = 0;
while (rounds < ROUNDS && (rounds === 0 || (performance.now() - started) / 60_000 < MINUTES)) {
  await round();
  process.stderr.write(`round ${++rounds} of ${ROUNDS}\n`);
}
const moved = await movedByStep(batches.at(-1)!);
const admission = await admissionOf(batches.at(-1)!);
await peft?.[Symbol.asyncDispose]();
await torch?.[Symbol.asyncDispose]();
report();
process.exit(0);

async function round(): Promise<void> {
  for (const rows of batches) {
    for (const different of [false, true])
      note(`decode ${rows} ${different}`, await works.decode({ rows, different, context: CONTEXT, steps: STEPS }));
    note(`runner ${rows}`, await runnerStep(rows));
    await ask(peft, `decode-${rows}`);
    await ask(torch, `decode-${rows}`);
  }
  await ask(peft, "decode-32-different");
  note("prompts together", (await works.prompts(TOGETHER, TOGETHER_TOKENS)) / TOGETHER);
  for (const tokens of PROMPTS) {
    note(`prefill ${tokens}`, await works.prefill(tokens, 3));
    await ask(peft, `prefill-${tokens}`);
    await ask(torch, `prefill-${tokens}`);
  }
  for (const context of CONTEXTS) {
    note(
      `context ${context}`,
      await works.decode({ rows: CURVE_ROWS, different: true, context, steps: Math.min(STEPS, 16) }),
    );
    await ask(peft, `decode-${CURVE_ROWS}-${context}`);
    await ask(torch, `decode-${CURVE_ROWS}-${context}`);
  }
}

async function ask(peer: Peer | null, work: string): Promise<void> {
  if (peer === null) return;
  await sleep(PAUSE_MS);
  note(`${peer.name} ${work}`, (await peer.run(work, PEER_UNITS)) / PEER_UNITS);
}

/** Seconds per step of the runner alone; the rest of a step is the engine's. */
async function runnerStep(rows: number): Promise<number> {
  const [ids, positions] = [promptIds(rows, 1, shape.vocabSize), new Int32Array(rows).fill(CONTEXT)];
  const times: number[] = [];
  for (let step = -2; step < STEPS; step++) {
    const began = performance.now();
    await runner.decode(ids, positions);
    if (step >= 0) times.push((performance.now() - began) / 1000);
  }
  return median(times);
}

/**
 * Seconds from the submission of `rows` requests, each with a prefix of 60 and a prompt of 8, until all have their
 * first token; and for one request beside running rows.
 */
async function admissionOf(rows: number): Promise<{ cold: number; all: number; one: number }> {
  const cold = await works.admission(rows);
  const all = await works.admission(rows);
  const alone: number[] = [];
  for (let time = 0; time < 20; time++) {
    const prefix = works.prefix(60, time % 8);
    const began = performance.now();
    runner.loadPrefix(0, prefix);
    await runner.prefill(0, 60, promptIds(8, time, shape.vocabSize), "last");
    alone.push((performance.now() - began) / 1000);
  }
  return { cold, all, one: median(alone) };
}

/** @throws Error that says what is to be given */
function chosenDevice(): Device {
  if (!SMOKE && (GPU === "" || !(BANDWIDTH > 0)))
    throw new Error("give the GPU's name and its memory's bandwidth in GB/s: GPU=... BANDWIDTH_GBS=...");
  if (SMOKE && KIND === "simulated") return SIMULATED.handles;
  if (KIND !== "webgpu" && KIND !== "cuda") throw new Error("DEVICE is webgpu or cuda");
  if (KIND === "webgpu" && SMOKE) {
    const skip = webgpuSkip();
    if (skip !== false) throw new Error(skip);
  }
  if (KIND === "webgpu" && !SMOKE && onlySoftware())
    throw new Error(
      "the only Vulkan driver is software (SwiftShader, llvmpipe): its speed says nothing about a GPU; SMOKE=1 tries the benchmark on it",
    );
  return DEVICES[KIND];
}

/** True if every Vulkan driver found renders on the CPU. */
function onlySoftware(): boolean {
  const drivers =
    examineVulkan()
      .facts.find((fact) => fact.startsWith("Vulkan drivers"))
      ?.replace(/^[^:]*: /, "")
      .split(", ") ?? [];
  return drivers.length > 0 && drivers.every((driver) => /swiftshader|lvp|llvmpipe/i.test(driver));
}

/** As many slots as fit into the device's memory. */
async function openLargest(): Promise<BenchModel> {
  for (const slots of [...BATCHES].reverse()) {
    try {
      return await openFolder(folder, Math.max(slots, CURVE_ROWS), PRECISION, THREADS, device);
    } catch (error) {
      if (!(error instanceof OrtError) || slots <= CURVE_ROWS) throw error;
      process.stderr.write(`${slots} rows do not fit: ${error.message.slice(0, 200)}\n`);
    }
  }
  throw new Error("no batch size fits");
}

/** Bytes between the process's memory and the device's in one decode step of so many rows. */
async function movedByStep(rows: number): Promise<{ up: number; down: number }> {
  const positions = new Int32Array(rows).fill(CONTEXT);
  const ids = promptIds(rows, 1, shape.vocabSize);
  await runner.decode(ids, positions);
  const before = { ...model.runtime.transfers };
  await runner.decode(ids, positions);
  return { up: model.runtime.transfers.up - before.up, down: model.runtime.transfers.down - before.down };
}

/** Bytes that a step must read: the layers' and the head's matrices once, keys and values of every row. */
function bytesRead({ layers, width, vocabSize }: ModelShape, rows: number, context: number): number {
  return BYTES[PRECISION] * (layers * 12 * width * width + vocabSize * width + rows * context * 2 * layers * width);
}

function report(): void {
  const rate = (peer: string, work: string, tokens: number): string =>
    seconds.has(`${peer} ${work}`) ? (tokens / mid(`${peer} ${work}`)).toFixed(0) : "not measured";
  const share = (work: string, ours: number): string =>
    seconds.has(`torch ${work}`) ? (mid(`torch ${work}`) / ours).toFixed(2) : "not measured";
  const floor = (rows: number, context: number, step: number): string =>
    `${((100 * bytesRead(shape, rows, context)) / (BANDWIDTH * 1e9) / step).toFixed(0)} %`;
  const byRows = batches.map((rows) => {
    const [one, many] = [mid(`decode ${rows} false`), mid(`decode ${rows} true`)];
    const alone = mid(`runner ${rows}`);
    return [
      rows,
      (many * 1000).toFixed(2),
      (alone * 1000).toFixed(2),
      (rows / many).toFixed(0),
      floor(rows, CONTEXT, alone),
      (one / many).toFixed(3),
      rate("torch", `decode-${rows}`, rows),
      share(`decode-${rows}`, many),
      share(`decode-${rows}`, alone),
      rate("PEFT", `decode-${rows}`, rows),
    ];
  });
  const byContext = CONTEXTS.map((context) => {
    const step = mid(`context ${context}`);
    const work = `decode-${CURVE_ROWS}-${context}`;
    return [
      context,
      (CURVE_ROWS / step).toFixed(0),
      floor(CURVE_ROWS, context, step),
      rate("torch", work, CURVE_ROWS),
      rate("PEFT", work, CURVE_ROWS),
    ];
  });
  const prompts = PROMPTS.map((tokens) => [
    tokens,
    (tokens / mid(`prefill ${tokens}`)).toFixed(0),
    rate("torch", `prefill-${tokens}`, tokens),
    rate("PEFT", `prefill-${tokens}`, tokens),
  ]);
  const lines = [
    `${GPU}, ${BANDWIDTH} GB/s, through ${KIND}: ${SMOKE ? "demo model" : `GPT-2 ${SIZE}, random weights`}, ${PRECISION}, medians of ${rounds} rounds of ${STEPS} steps. ${machine()}.`,
    "",
    `Every row with a prefix of its own, ${CONTEXT} tokens in the cache; PEFT has one prefix for all rows (with 32 different ones, one after the other: ${rate("PEFT", "decode-32-different", 32)} tokens/s). torch has no prefixes, all rows at one length and nothing but the model to do; its share is of the whole step through the engine, and of the runner alone.`,
    "",
    ...table(
      [
        "rows",
        "step, ms",
        "of it the runner, ms",
        "tokens/s",
        "of the memory's bandwidth",
        "N prefixes / one prefix",
        "torch, tokens/s",
        "ours / torch",
        "runner / torch",
        "PEFT, tokens/s",
      ],
      byRows,
    ),
    "",
    ...table(["prompt", "tokens/s", "torch, tokens/s", "PEFT, tokens/s"], prompts),
    "",
    `${TOGETHER} prompts of ${TOGETHER_TOKENS} that come at once: ${(TOGETHER_TOKENS / mid("prompts together")).toFixed(0)} tokens/s.`,
    "",
    `${CURVE_ROWS} rows by tokens in the cache, nearly all of them prefix:`,
    "",
    ...table(
      ["tokens", "decoded tokens/s", "of the memory's bandwidth", "torch, tokens/s", "PEFT, tokens/s"],
      byContext,
    ),
    "",
    `A decode step of ${batches.at(-1)} rows moves ${moved.up} bytes to the device and ${moved.down} back. ${batches.at(-1)} requests, each with a prefix of 60 and a prompt of 8, have their first tokens after ${(admission.all * 1000).toFixed(0)} ms, ${(admission.cold * 1000).toFixed(0)} ms where the prefixes are not on the device yet; one admission takes ${(admission.one * 1000).toFixed(2)} ms.`,
  ];
  console.log(lines.join("\n"));
  if (SMOKE) return console.log("\nsmoke run, not measured: nothing is written");
  const curve = (name: string, rate: (context: number) => number): { name: string; points: [number, number][] } => ({
    name,
    points: CONTEXTS.map((context) => [context, rate(context)]),
  });
  const series = [curve("prefixd", (context) => CURVE_ROWS / mid(`context ${context}`))];
  if (torch !== null)
    series.push(curve("torch, no prefix", (context) => CURVE_ROWS / mid(`torch decode-${CURVE_ROWS}-${context}`)));
  if (peft !== null)
    series.push(curve("PEFT, one prefix", (context) => CURVE_ROWS / mid(`PEFT decode-${CURVE_ROWS}-${context}`)));
  writePlot(
    "device",
    linePlot({
      title: `${GPU}: ${CURVE_ROWS} rows`,
      x: { label: "tokens in the cache" },
      y: { label: "decoded tokens/s" },
      series,
    }),
  );
  writeSection("device", [...lines, "", "![Decoded tokens per second by prefix length](plots/device.svg)"]);
}
