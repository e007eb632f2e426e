/**
 * Which hyperparameters train well? Trains prefixes of the demo model with each variant, on a sample of a task's rows, and scores them on dev
 * rows. Only for the choice of defaults: no test row is read.
 *
 *     CORPORA=DIR [TASKS=datelong:1000,intent:5000,e2e:4000] [VARIANTS='[{...}]'] [THREADS=1] npm run bench -- training-defaults
 *
 * CORPORA is as in tools/demo-model/README.md; needs `xz`. A task has the number of its training rows. A variant has training options, and
 * `init`, the text to begin with, or null for N(0, 1); what it does not have is a default of `prefixd train`. With TASKS or VARIANTS nothing is written.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readTrainFlags } from "../src/cli/train-flags.ts";
import { Runtime } from "../src/runtime/session.ts";
import { Job } from "../src/training/job.ts";
import type { TrainingOptions } from "../src/training/options.ts";
import { promptOf, sampleOf, targetOf, taskRows } from "./support/demo-tasks.ts";
import { CACHE, DEMO } from "./support/gpt2.ts";
import { machine, table, writeSection } from "./support/report.ts";

type Variant = Partial<TrainingOptions> & { readonly init?: string | null };

const DEV_ROWS = 200;
/** As many rows seen in each, so about as long. */
const VARIANTS: readonly Variant[] = [
  { batchSize: 16, steps: 400 },
  { batchSize: 8, steps: 800 },
  { batchSize: 4, steps: 1600 },
  { batchSize: 8, steps: 800, learningRate: 0.03 },
  { batchSize: 8, steps: 800, learningRate: 0.3 },
  { batchSize: 8, steps: 800, hidden: 512 },
  { batchSize: 8, steps: 800, init: "a date, written" },
  { batchSize: 8, steps: 800, init: null },
  { batchSize: 8, steps: 1600 },
];

const { CORPORA: corpora, TASKS: tasks, VARIANTS: variants } = process.env;
if (corpora === undefined) {
  console.log("training-defaults: skipped, CORPORA is not set");
  process.exit(0);
}
const threads = process.env["THREADS"] ?? "1";
const folder = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
process.once("exit", () => rmSync(folder, { recursive: true }));
using runtime = new Runtime();
const lines: string[][] = [];
for (const taskAndRows of (tasks ?? "datelong:1000,intent:5000,e2e:4000").split(",")) {
  const [task, rows] = taskAndRows.split(":") as [string, string | undefined];
  const files = ["--data", fileOf(task, "train", Number(rows ?? Infinity)), "--eval", fileOf(task, "dev", DEV_ROWS)];
  for (const variant of variants === undefined ? VARIANTS : (JSON.parse(variants) as Variant[])) {
    const { init, ...options } = variant;
    const text = init === undefined ? [] : init === null ? ["--init-normal"] : ["--init-text", init];
    const model = ["--model", DEMO, "--cache-dir", CACHE, "--threads", threads];
    const command = readTrainFlags([...files, ...text, ...model, "--out", join(folder, "out")], {});
    if (command === "help" || command.request === null) throw new Error("it is a new training");
    const request = { ...command.request, options: { ...command.request.options, ...options } };
    await using job = await Job.open(runtime, request, true);
    const began = process.cpuUsage();
    while (!job.training.isDone) await job.training.update();
    const { user, system } = process.cpuUsage(began);
    const { loss, exact } = await job.training.evaluate();
    const { steps, batchSize, learningRate, hidden } = job.training.options;
    lines.push([
      `${task}, ${job.counts.train} rows`,
      `${steps} x ${batchSize}`,
      `${learningRate}${hidden === null ? "" : `, network of ${hidden}`}${init === undefined ? "" : init === null ? ", from N(0, 1)" : `, from “${init}”`}`,
      loss.toFixed(4),
      (100 * exact).toFixed(1),
      ((user + system) / 1e6).toFixed(0),
    ]);
    console.log(lines.at(-1)!.join(" | "));
  }
}
if (tasks === undefined && variants === undefined)
  writeSection("training-defaults", [
    `Demo model, ${DEV_ROWS} dev rows, ${threads} ${threads === "1" ? "thread" : "threads"}. ${machine()}.`,
    "",
    ...table(["task", "steps x batch", "learning rate", "dev loss", "right, %", "CPU seconds"], lines),
  ]);

function fileOf(task: string, split: "train" | "dev", count: number): string {
  const path = join(folder, `${task}.${split}.jsonl`);
  const rows = sampleOf(taskRows(corpora!, task, split), count);
  const lines = rows.map((row) => JSON.stringify({ prompt: promptOf(row), completion: targetOf(row) }));
  writeFileSync(path, lines.join("\n"));
  return path;
}
