/**
 * Trains the demo's prefixes with `prefixd train`, and compares them on dev rows with those in prefixes/.
 *
 *     npm run build
 *     npx tsx tools/demo-model/train-prefixes.ts CORPORA OUT [--tasks intent,e2e] [--replace] [-- FLAGS of prefixd train]
 *
 * CORPORA is as in README.md; needs `xz`. One command a task, with the defaults of `prefixd train` but for FLAGS; the values of the best
 * evaluation on dev rows are kept. Given again, the same command goes on where it was interrupted, and trains nothing twice. Each OUT/TASK has
 * the adapter and train.json; --replace copies those with a lower dev loss than prefixes/TASK there. Afterwards: eval.py, showcase.py, table.py.
 */
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { promptOf, sampleOf, targetOf, taskRows } from "../../bench/support/demo-tasks.ts";
import { readTrainFlags } from "../../src/cli/train-flags.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { Job, type TrainRequest } from "../../src/training/job.ts";
import type { TrainingOptions } from "../../src/training/options.ts";
import type { Evaluation } from "../../src/training/training.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const SHIPPED = join(ROOT, "prefixes");
/** As all adapters of the demo name it, whatever its folder. */
const BASE_NAME = "prefixd/demo";
const TASKS = ["datelong", "datenorm", "intent", "e2e", "sgd_nlg", "truecase"];
const DEV_ROWS = 500;
/** Positions beyond these were hardly trained. */
const MAX_TOKENS = 256;

const end = process.argv.indexOf("--");
const [args, trainFlags] =
  end < 0 ? [process.argv.slice(2), []] : [process.argv.slice(2, end), process.argv.slice(end + 1)];
const { values, positionals } = parseArgs({
  args,
  options: { tasks: { type: "string" }, replace: { type: "boolean" } },
  allowPositionals: true,
});
const [corpora, out] = positionals.map((path) => resolve(path));
if (corpora === undefined || out === undefined)
  throw new Error("usage: train-prefixes.ts CORPORA OUT [--tasks NAME,...] [--replace] [-- FLAGS]");

mkdirSync(out, { recursive: true });
using runtime = new Runtime();
for (const task of values.tasks?.split(",") ?? TASKS) {
  const folder = join(out, task);
  const flags = [
    ...["--data", examplesOf(task, "train"), "--eval", examplesOf(task, "dev"), "--bad-lines", "1"],
    ...["--max-tokens", String(MAX_TOKENS), "--model", join(ROOT, "models/demo"), ...trainFlags],
  ];
  if (!existsSync(join(folder, "adapter_model.safetensors"))) train(flags, folder);
  const [own, { options, train: examples }] = await scored(flags, folder);
  const [shipped] = await scored(flags, join(SHIPPED, task));
  const isBetter = own.loss < shipped.loss;
  console.log(`${task}: dev ${shown(own)}; prefixes/${task}: ${shown(shipped)}; ${isBetter ? "better" : "not better"}`);
  const { steps, batchSize, learningRate, virtualTokens, seed } = options;
  const record = {
    task,
    command:
      `prefixd train --data ${task}.train.jsonl --eval ${task}.dev.jsonl --max-tokens ${MAX_TOKENS} ${trainFlags.join(" ")}`.trim(),
    ...{ seed, steps, rows_seen: steps * batchSize, examples, P: virtualTokens, lr: learningRate, batch: batchSize },
    dev: { rows: DEV_ROWS, loss: own.loss, exact: own.exact },
  };
  writeFileSync(join(folder, "train.json"), `${JSON.stringify(record, null, 1)}\n`);
  if (isBetter && values.replace === true)
    for (const name of ["adapter_config.json", "adapter_model.safetensors", "train.json"])
      cpSync(join(folder, name), join(SHIPPED, task, name));
}

/** A file of the task's rows. */
function examplesOf(task: string, split: "train" | "dev"): string {
  const file = join(out!, `${task}.${split}.jsonl`);
  if (existsSync(file)) return file;
  const rows = taskRows(corpora!, task, split);
  const chosen = split === "dev" ? sampleOf(rows, DEV_ROWS) : rows;
  const lines = chosen.map((row) => JSON.stringify({ prompt: promptOf(row), completion: targetOf(row) }));
  writeFileSync(file, lines.join("\n"));
  return file;
}

function train(flags: readonly string[], folder: string): void {
  const isBegun = existsSync(join(folder, "training.state"));
  const command = ["train", ...(isBegun ? ["--resume"] : flags), "--out", folder];
  const { status } = spawnSync(process.execPath, [join(ROOT, "dist/cli/main.js"), ...command], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
  const file = join(folder, "adapter_config.json");
  const config = { ...(JSON.parse(readFileSync(file, "utf8")) as object), base_model_name_or_path: BASE_NAME };
  writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`);
}

/** The adapter on the dev rows, and what a training with these flags is. */
async function scored(
  flags: readonly string[],
  dir: string,
): Promise<[Evaluation, { readonly options: TrainingOptions; readonly train: number }]> {
  const command = readTrainFlags([...flags, "--out", dir], {});
  if (command === "help" || command.request === null) throw new Error("it is a new training");
  const request: TrainRequest = { ...command.request, initial: { kind: "folder", dir } };
  await using job = await Job.open(runtime, request, true);
  return [await job.training.evaluate(), { options: job.training.options, train: job.counts.train }];
}

function shown({ loss, exact }: Evaluation): string {
  return `loss ${loss.toFixed(4)}, ${(100 * exact).toFixed(1)} % right`;
}
