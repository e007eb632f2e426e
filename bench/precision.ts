/**
 * How much faster are the kernels in int8 than in fp32?
 *
 *     npm run bench -- precision
 *
 * One process, GPT-2 small with random weights, the two precisions in turn step by step. Only the runner: decode steps of 1, 8 and 32
 * rows with 80 tokens in the cache, and a prompt of 64 tokens. The other session's threads spin a little after its turn, so each
 * turn begins with steps that are not counted.
 */
import { PRECISIONS, type Precision } from "../src/model/graph-weights.ts";
import { openSized, promptIds, type BenchModel } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";

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
  { name: `prompt of ${PROMPT}`, tokens: PROMPT, run: ({ runner }) => runner.prefill(0, 0, promptIds(PROMPT, 0)) },
];

const models = new Map<Precision, BenchModel>();
for (const precision of PRECISIONS) {
  const model = await openSized("gpt2", 32, precision);
  for (let row = 0; row < 32; row++) await model.runner.prefill(row, 0, promptIds(CONTEXT, row));
  models.set(precision, model);
}

const seconds: Record<string, number[]> = {};
for (let round = 0; round < ROUNDS; round++) {
  for (const work of WORK) {
    for (const [precision, model] of models) {
      for (let step = -UNCOUNTED; step < COUNTED; step++) {
        const started = performance.now();
        await work.run(model);
        if (step >= 0) (seconds[`${precision} ${work.name}`] ??= []).push((performance.now() - started) / 1000);
      }
    }
  }
  process.stderr.write(`round ${round + 1} of ${ROUNDS}\n`);
}

const rate = (precision: Precision, { name, tokens }: Work): number => tokens / median(seconds[`${precision} ${name}`]!);
const rows = WORK.map((work) => [work.name, rate("fp32", work).toFixed(0), rate("int8", work).toFixed(0), (rate("int8", work) / rate("fp32", work)).toFixed(2)]);
writeSection("precision", [
  `GPT-2 small (124M, random weights), 2 threads, ${CONTEXT} tokens in the cache, medians of ${ROUNDS} interleaved rounds of ${COUNTED} steps. ${machine()}.`,
  "",
  ...table(["runner alone", "fp32, tokens/s", "int8, tokens/s", "int8 / fp32"], rows),
]);
console.log(rows.map((row) => row.join("  ")).join("\n"));
for (const model of models.values()) await model[Symbol.asyncDispose]();
process.exit(0);
