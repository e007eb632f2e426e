/**
 * How much faster are int8 kernels than fp32 ones?
 *
 *     npm run bench -- precision
 *
 * One process, GPT-2 small with random weights, the two precisions alternating step by step. Runner only: decode steps
 * of 1, 8 and 32 rows with 80 tokens in the cache, and a prompt of 64 tokens. The other session's threads spin a little
 * after its turn, so each turn starts with uncounted steps.
 */
import { DEVICE_PRECISIONS } from "../src/config-schema.ts";
import { exactIntegers } from "../src/model/integer-kernels.ts";
import { openSized, promptIds, THREADS, type BenchModel } from "./support/gpt2.ts";
import { machineOfInt8, median, table, writeSection } from "./support/report.ts";

const PRECISIONS = DEVICE_PRECISIONS.cpu;
type Precision = (typeof PRECISIONS)[number];
const ROUNDS = Number(process.env["ROUNDS"] ?? 15);
const CONTEXT = 80;
const PROMPT = 64;
const UNCOUNTED = 3;
const COUNTED = 6;

interface Work {
  readonly name: string;
  readonly tokens: number;
  run(model: BenchModel): Promise<unknown>;
}

const decode = (rows: number): Work => ({
  name: rows === 1 ? "decode, 1 row" : `decode, ${rows} rows`,
  tokens: rows,
  run: ({ runner }) => runner.decode(promptIds(rows, 1), new Int32Array(rows).fill(CONTEXT)),
});
const WORK: readonly Work[] = [
  decode(1),
  decode(8),
  decode(32),
  {
    name: `prompt of ${PROMPT}`,
    tokens: PROMPT,
    run: ({ runner }) => runner.prefill(0, 0, promptIds(PROMPT, 0), "last"),
  },
];

/**
 * Median tokens per second of every work in each precision. One thread: of the process's CPU time; more: of wall time.
 */
async function measure(threads: number): Promise<Record<Precision, number[]>> {
  const now = (): number => {
    const { user, system } = process.cpuUsage();
    return threads === 1 ? (user + system) / 1e6 : performance.now() / 1000;
  };
  const models: [Precision, BenchModel][] = [];
  for (const precision of PRECISIONS) {
    const model = await openSized("gpt2", 32, precision, threads);
    for (let row = 0; row < 32; row++) await model.runner.prefill(row, 0, promptIds(CONTEXT, row), "last");
    models.push([precision, model]);
  }
  const seconds: Record<string, number[]> = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const work of WORK) {
      for (const [precision, model] of models) {
        for (let step = -UNCOUNTED; step < COUNTED; step++) {
          const started = now();
          await work.run(model);
          if (step >= 0) (seconds[`${precision} ${work.name}`] ??= []).push(now() - started);
        }
      }
    }
    process.stderr.write(`${threads} threads, round ${round + 1} of ${ROUNDS}\n`);
  }
  for (const [, model] of models) await model[Symbol.asyncDispose]();
  const rates = (precision: Precision): number[] =>
    WORK.map(({ name, tokens }) => tokens / median(seconds[`${precision} ${name}`]!));
  return { fp32: rates("fp32"), int8: rates("int8") };
}

const single = await measure(1);
const double = await measure(THREADS);
const cells = ({ fp32, int8 }: typeof single, index: number): string[] => [
  fp32[index]!.toFixed(0),
  int8[index]!.toFixed(0),
  (int8[index]! / fp32[index]!).toFixed(2),
];
const rows = WORK.map(({ name }, index) => [name, ...cells(single, index), ...cells(double, index)]);
// One section per integer form: they run on different processors.
writeSection((await exactIntegers()) === "int8-u8u8" ? "precision-without-vnni" : "precision", [
  `GPT-2 small (124M, random weights), tokens/s with ${CONTEXT} tokens in the cache, medians of ${ROUNDS} interleaved rounds of ${COUNTED} steps. ${await machineOfInt8()}.`,
  "",
  "One thread is measured in the process's CPU time, which other work on the machine hardly changes; two threads by the clock.",
  "",
  ...table(["runner alone", "1 thread, fp32", "int8", "ratio", `${THREADS} threads, fp32`, "int8", "ratio"], rows),
]);
console.log(rows.map((row) => row.join("  ")).join("\n"));
process.exit(0);
