/**
 * "Longer prefixes have a negligible impact on inference speed" (Li & Liang 2021, section 7.2, not measured there).
 * What do they cost?
 *
 *     npm run bench -- prefix-length
 *
 * Runner only, GPT-2 small with random weights, two threads. Every row of the cache is filled once with as many random
 * positions as the longest context has; a decode step at position P + 64 then reads as much as a row with a prefix of P
 * and a prompt of 64. A prompt is always fed to one row; its time includes copying the prefix into the row. All lengths
 * take turns in every round, in an order that changes from round to round.
 */
import { DEVICE_PRECISIONS } from "../src/config-schema.ts";
import type { KvTensor } from "../src/kv.ts";
import { matrixBytes, openSized, promptIds, randomPrefix, THREADS, type BenchModel } from "./support/gpt2.ts";
import { linePlot } from "../src/reporting/plot.ts";
import { machineOfInt8, median, table, writePlot, writeSection } from "./support/report.ts";

const LENGTHS: readonly number[] = [0, 10, 50, 100, 200, 500];
const BATCHES = [1, 8, 32] as const;
const PRECISIONS = DEVICE_PRECISIONS.cpu;
type Precision = (typeof PRECISIONS)[number];
const ROUNDS = Number(process.env["ROUNDS"] ?? 12);
const PROMPT = 64;
const SLOTS = 32;
/** Uncounted steps: the other session's threads spin a little after its turn. */
const UNCOUNTED = 3;
const COUNTED = 4;
const LONGEST = Math.max(...LENGTHS);
/** Prefix length of the 32-row cases in which all rows carry the same prefix. */
const SHARED = LONGEST;
/** Relative to the time without a prefix. */
const NEGLIGIBLE = 0.05;

const milliseconds = new Map<string, number[]>();
const models = new Map<Precision, BenchModel>();
for (const precision of PRECISIONS) models.set(precision, await openSized("gpt2", SLOTS, precision, THREADS));
const { shape } = models.get("fp32")!;
const prefixes = new Map(LENGTHS.map((length) => [length, randomPrefix(shape, length, length)]));
const different = Array.from({ length: SLOTS }, (_, row) => randomPrefix(shape, SHARED, 1000 + row));
const context = randomPrefix(shape, LONGEST + PROMPT + 1, 7);
for (const { runner } of models.values()) for (let row = 0; row < SLOTS; row++) runner.loadPrefix(row, context);

for (let round = 0; round < ROUNDS; round++) {
  const lengths = round % 2 === 0 ? LENGTHS : [...LENGTHS].reverse();
  for (const [precision, model] of models) {
    await steps(model, UNCOUNTED, SLOTS, 0);
    for (const batch of BATCHES)
      for (const length of lengths) note(`${precision} ${batch} ${length}`, await steps(model, COUNTED, batch, length));
    for (const length of lengths) note(`${precision} prompt ${length}`, await prompts(model, prefixes.get(length)!));
    for (const rows of ["same", "different"] as const) {
      for (let row = 0; row < SLOTS; row++) model.runner.loadPrefix(row, different[rows === "same" ? 0 : row]!);
      await steps(model, 1, SLOTS, SHARED);
      note(`${precision} ${rows}`, await steps(model, COUNTED, SLOTS, SHARED));
    }
  }
  process.stderr.write(`round ${round + 1} of ${ROUNDS}\n`);
}

function note(name: string, values: readonly number[]): void {
  milliseconds.set(name, [...(milliseconds.get(name) ?? []), ...values]);
}

/** Milliseconds of each of `count` decode steps of rows with a prefix of `length` and a prompt. */
async function steps({ runner }: BenchModel, count: number, batch: number, length: number): Promise<number[]> {
  const [ids, positions] = [promptIds(batch, 1), new Int32Array(batch).fill(length + PROMPT)];
  const times: number[] = [];
  for (let step = 0; step < count; step++) {
    const started = performance.now();
    await runner.decode(ids, positions);
    times.push(performance.now() - started);
  }
  return times;
}

async function prompts({ runner }: BenchModel, prefix: KvTensor): Promise<number[]> {
  const times: number[] = [];
  for (let step = 0; step < COUNTED; step++) {
    const started = performance.now();
    runner.loadPrefix(0, prefix);
    await runner.prefill(0, prefix.length, promptIds(PROMPT, step), "last");
    times.push(performance.now() - started);
  }
  return times;
}

const ms = (name: string): number => median(milliseconds.get(name)!);
const WORK = [
  ...BATCHES.map((batch) => ({ key: String(batch), name: `decode, ${batch} ${batch === 1 ? "row" : "rows"}` })),
  { key: "prompt", name: `prompt of ${PROMPT}` },
];
const relative = (precision: Precision, key: string, length: number): number =>
  ms(`${precision} ${key} ${length}`) / ms(`${precision} ${key} 0`);
const rows = PRECISIONS.flatMap((precision) =>
  WORK.map(({ key, name }) => {
    return [
      precision,
      name,
      ms(`${precision} ${key} 0`).toFixed(1),
      ...LENGTHS.slice(1).map((length) => relative(precision, key, length).toFixed(2)),
    ];
  }),
);

/** Bytes of keys and values that one step reads per position and row. */
const positionBytes = 4 * 2 * shape.layers * shape.width;
/** Bytes of the matrices that one step reads: 12 width² per layer, and the head. */
const weightBytes = (precision: Precision): number => matrixBytes(shape, precision);
const mb = (bytes: number): string => (bytes / 1e6).toFixed(0);
/** Least squares: milliseconds that one more position of every row adds to a step. */
function slope(precision: Precision, batch: number): number {
  const meanLength = LENGTHS.reduce((sum, length) => sum + length, 0) / LENGTHS.length;
  const meanTime = LENGTHS.reduce((sum, length) => sum + ms(`${precision} ${batch} ${length}`), 0) / LENGTHS.length;
  const covariance = LENGTHS.reduce(
    (sum, length) => sum + (length - meanLength) * (ms(`${precision} ${batch} ${length}`) - meanTime),
    0,
  );
  return covariance / LENGTHS.reduce((sum, length) => sum + (length - meanLength) ** 2, 0);
}
const bounds = PRECISIONS.flatMap((precision) =>
  BATCHES.map((batch) => {
    const bytes = batch * positionBytes;
    const measured = slope(precision, batch);
    return [
      precision,
      batch,
      mb(weightBytes(precision)),
      mb(bytes * PROMPT),
      mb(bytes * (200 + PROMPT)),
      (1 + (200 * bytes) / (weightBytes(precision) + PROMPT * bytes)).toFixed(2),
      relative(precision, String(batch), 200).toFixed(2),
      (1000 * measured).toFixed(1),
      (bytes / measured / 1e6).toFixed(0),
    ];
  }),
);
const weightRate = weightBytes("fp32") / ms("fp32 1 0") / 1e6;
const kvRate = (32 * positionBytes) / slope("fp32", 32) / 1e6;
/** The longest prefix up to which every length costs less than NEGLIGIBLE, in both precisions. */
const negligibleUpTo = (key: string): number => {
  const first = LENGTHS.findIndex((length) =>
    PRECISIONS.some((precision) => relative(precision, key, length) > 1 + NEGLIGIBLE),
  );
  return LENGTHS[first < 0 ? LENGTHS.length - 1 : first - 1]!;
};
const claim = WORK.map(({ key, name }) => `${name} up to ${negligibleUpTo(key)}`).join("; ");
const gain = (precision: Precision): string =>
  (
    100 *
    (1 -
      (ms(`${precision} 32 0`) + (ms(`${precision} 32 ${SHARED}`) - ms(`${precision} 32 0`)) / 32) /
        ms(`${precision} 32 ${SHARED}`))
  ).toFixed(0);
const sameRows = (precision: Precision): string => (ms(`${precision} same`) / ms(`${precision} different`)).toFixed(3);

writePlot(
  "prefix-length",
  linePlot({
    title: "One decode step by the length of the prefix, relative to no prefix",
    x: { label: "virtual tokens" },
    y: { label: "time of a step / without prefix" },
    series: PRECISIONS.flatMap((precision) =>
      BATCHES.map((batch) => ({
        name: `${precision}, ${batch} ${batch === 1 ? "row" : "rows"}`,
        points: LENGTHS.map((length) => [length, relative(precision, String(batch), length)] as [number, number]),
      })),
    ),
  }),
);
writeSection("prefix-length", [
  `GPT-2 small (124M, random weights), ${THREADS} threads, prompt of ${PROMPT}; runner alone, medians of ${ROUNDS} interleaved rounds of ${COUNTED} steps. ${await machineOfInt8()}.`,
  "",
  `Question: do "longer prefixes have a negligible impact on inference speed"? With ${100 * NEGLIGIBLE} % as negligible, in fp32 and int8 alike, it holds for these numbers of virtual tokens: ${claim}.`,
  "",
  ...table(["", "", "P = 0, ms", ...LENGTHS.slice(1).map((length) => `P = ${length}, relative`)], rows),
  "",
  "![time of a decode step by prefix length](plots/prefix-length.svg)",
  "",
  `The bound, from the shapes: a step reads its matrices once for all rows, and ${(positionBytes / 1024).toFixed(0)} KiB of keys and values per position of every row. If both were read equally fast and nothing else took time, a prefix of 200 would cost "bound".`,
  "",
  ...table(
    [
      "",
      "rows",
      "weights, MB",
      "K/V at P = 0, MB",
      "at P = 200, MB",
      "bound",
      "measured",
      "slope, µs a position",
      "K/V read at, GB/s",
    ],
    bounds,
  ),
  "",
  `Rows that carry the same prefix have copies of it each, and the processor's caches do not help: a step of 32 rows with the same prefix of ${SHARED} takes ${sameRows("fp32")} (int8: ${sameRows("int8")}) of one with different ones. Reading a shared prefix's keys and values once instead of 32 times could save at most ${gain("fp32")} % of that step (int8: ${gain("int8")} %), if attention were bound by memory; it reads them at ${kvRate.toFixed(0)} GB/s where one row's step reads weights at ${weightRate.toFixed(0)} GB/s.`,
]);
console.log(
  [...rows, ...bounds].map((row) => row.join("  ")).join("\n"),
  "\nsame/different",
  sameRows("fp32"),
  sameRows("int8"),
  "gain at most",
  gain("fp32"),
  gain("int8"),
);
process.exit(0);
