/**
 * Does `prefixd train` end where PEFT does? Both train three demo tasks, side by side, from the same initial values on the same batches; one
 * code scores the results on test rows.
 *
 *     CORPORA=DIR PEFT_PYTHON=python [STEPS=N] [THREADS=1] npm run bench -- training-scores
 *
 * CORPORA is as in tools/demo-model/README.md; needs `xz`. A right answer is one whose every token is the model's first choice: what greedy
 * decoding gets right. All settings but STEPS are the defaults of `prefixd train`.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import type { TrainSequence } from "../src/model/train-batch.ts";
import { Runtime } from "../src/runtime/session.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { readTrainFlags } from "../src/cli/train-flags.ts";
import { epochBatches } from "../src/training/data/batches.ts";
import { readExamples } from "../src/training/data/examples.ts";
import { Job, type TrainRequest } from "../src/training/job.ts";
import { linearSchedule } from "../src/training/optimizer.ts";
import type { TrainingOptions } from "../src/training/options.ts";
import type { Evaluation } from "../src/training/training.ts";
import { promptOf, sampleOf, targetOf, taskRows } from "./support/demo-tasks.ts";
import { CACHE, DEMO } from "./support/gpt2.ts";
import { machine, table, writeSection } from "./support/report.ts";
import { TrainerProcess } from "./support/trainer-process.ts";

const TASKS = (process.env["TASKS"] ?? "datelong,datenorm,intent").split(",");
const TEST_ROWS = Number(process.env["TEST_ROWS"] ?? 1000);
/** Losses are compared while rounding has not yet led the two apart. */
const COMPARED_STEPS = 20;
const [corpora, python] = [process.env["CORPORA"], process.env["PEFT_PYTHON"]];
if (corpora === undefined || python === undefined) {
  console.log("training-scores: skipped, CORPORA or PEFT_PYTHON is not set");
  process.exit(0);
}
const threads = Number(process.env["THREADS"] ?? 1);
const folder = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true }));
using runtime = new Runtime();

const compared = await Promise.all(TASKS.map(compare));
const furthest = Math.max(...compared.map(({ apart }) => apart));
const { batchSize, learningRate, warmup, seed } = compared[0]!.options;
writeSection("training-scores", [
  `Demo model, batches of ${batchSize}, rate ${learningRate}, warm-up ${warmup}, seed ${seed}, fp32 on both sides; ${TEST_ROWS} test rows a task. The losses of the first ${COMPARED_STEPS} steps differ by ${furthest.toPrecision(1)} at most. ${machine()}.`,
  "",
  ...table(
    ["task", "steps", "prefixd: right, %", "PEFT: right, %", "prefixd: loss", "PEFT: loss"],
    compared.map(({ line }) => line),
  ),
]);

interface Comparison {
  readonly line: readonly string[];
  readonly options: TrainingOptions;
  /** The largest difference of the first losses. */
  readonly apart: number;
}

async function compare(task: string): Promise<Comparison> {
  const request = requestOf(task);
  await using job = await Job.open(runtime, request, true);
  const { training } = job;
  const { options } = training;
  const begin = join(folder, `${task}-begin`);
  mkdirSync(begin);
  for (const [name, bytes] of job.files()) writeFileSync(join(begin, name), bytes);
  using peft = TrainerProcess.peft(python!, { base: DEMO, adapter: begin, threads });
  const batches = await batchesOf(request.data, options);
  let apart = 0;
  for (let step = 0; step < options.steps; step++) {
    const rate = options.learningRate * linearSchedule(step, options.steps, options.warmup);
    const [{ loss }, other] = await Promise.all([
      training.update(),
      peft.update(batches.next().value, rate, options.clip),
    ]);
    if (step < COMPARED_STEPS) apart = Math.max(apart, Math.abs(loss - other.loss));
    if (step % 50 === 0) console.log(`${task}, step ${step}: loss ${loss.toFixed(4)}, PEFT's ${other.loss.toFixed(4)}`);
  }
  const end = join(folder, `${task}-peft`);
  await peft.save(end);
  const own = await training.evaluate();
  const others = await scoreOf(request, end);
  const percent = ({ exact }: Evaluation): string => (100 * exact).toFixed(1);
  const line = [
    task,
    String(options.steps),
    percent(own),
    percent(others),
    own.loss.toFixed(4),
    others.loss.toFixed(4),
  ];
  console.log(line.join(" | "));
  return { line, options, apart };
}

/** What `prefixd train` would do, evaluated on test rows. */
function requestOf(task: string): TrainRequest {
  const [data, evalData] = (["train", "test"] as const).map((split) => {
    const rows = taskRows(corpora!, task, split);
    const path = join(folder, `${task}.${split}.jsonl`);
    const chosen = split === "test" ? sampleOf(rows, TEST_ROWS) : rows;
    const lines = chosen.map((row) => JSON.stringify({ prompt: promptOf(row), completion: targetOf(row) }));
    writeFileSync(path, lines.join("\n"));
    return path;
  });
  const steps = process.env["STEPS"] === undefined ? [] : ["--steps", process.env["STEPS"]];
  const files = ["--data", data!, "--eval", evalData!, "--out", join(folder, task)];
  const command = readTrainFlags(
    [...files, ...steps, "--model", DEMO, "--cache-dir", CACHE, "--threads", String(threads)],
    {},
  );
  if (command === "help" || command.request === null) throw new Error("it is a new training");
  return command.request;
}

/** Of an adapter, on the test rows. */
async function scoreOf(request: TrainRequest, dir: string): Promise<Evaluation> {
  await using job = await Job.open(runtime, { ...request, initial: { kind: "folder", dir } }, true);
  return await job.training.evaluate();
}

/** What a training takes, step after step. */
async function batchesOf(
  data: string,
  { batchSize, seed, virtualTokens }: TrainingOptions,
): Promise<Generator<readonly TrainSequence[], never>> {
  const checkpoint = await openCheckpoint(DEMO);
  await checkpoint.close();
  const { positions, vocabSize } = checkpoint.shape;
  const tokenizer = await loadTokenizer(DEMO, vocabSize);
  const maxTokens = positions - virtualTokens + 1;
  const eosId = tokenizer.eosId!;
  const examples = await readExamples(data, { tokenizer, eosId, maxTokens, tooLong: "refuse", badLines: 0.01 });
  const indices = Int32Array.from({ length: examples.count }, (_, i) => i);
  return (function* () {
    for (let epoch = 0; ; epoch++)
      for (const batch of epochBatches(examples, indices, batchSize, seed, epoch))
        yield Array.from(batch, (index) => examples.sequence(index));
  })();
}
