/**
 * Does prefix-tuning behave on the demo model as Li & Liang (2021) found? Trains, answers and scores what
 * bench/paper/plan.ts lists; docs/paper.md has the tables.
 *
 *     npm run build
 *     npx tsx bench/paper/run.ts --corpora DIR --python PYTHON --work DIR [--budget thin|small|full] [--repeats 1]
 *         [--only methods,data,...] [--methods prefix,full,...] [--part 1/2] [--threads 1] [--stop-at TIME]
 *
 * DIR of the corpora is that of tools/demo-model/README.md (needs `xz`), PYTHON has tools/paper/requirements.txt. Each
 * result is added to bench/results/paper/runs.jsonl as its run ends; what is there already is not run again, so an
 * interrupted call goes on where it was. --part I/N runs every Nth of the runs, so that N calls beside each other, each
 * with a work folder of its own, do all. --stop-at (ISO 8601) starts no run after that time.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DEMO } from "../support/gpt2.ts";
import { Corpora, type Files } from "./data.ts";
import {
  BUDGETS,
  EXPERIMENTS,
  keyOf,
  RECIPES,
  runsOf,
  type BudgetName,
  type Experiment,
  type Method,
  type Run,
} from "./plan.ts";
import { evaluateEvery, MAX_NEW_TOKENS, MAX_TOKENS, PaperServer, trainPrefix } from "./prefixes.ts";
import { addResult, keysOf, readResults, RESULTS, type Checks, type Result, type Scores } from "./results.ts";
import { PythonWorker } from "./worker.ts";

interface Trained {
  readonly parameters: number;
  readonly devLoss: number;
  /** Null: not scored. */
  readonly answers: readonly string[] | null;
  readonly checks?: Checks;
}

const { values: given } = parseArgs({
  options: {
    corpora: { type: "string" },
    python: { type: "string" },
    work: { type: "string" },
    budget: { type: "string", default: "thin" },
    repeats: { type: "string", default: "1" },
    only: { type: "string", default: Object.keys(EXPERIMENTS).join(",") },
    methods: { type: "string", default: Object.keys(RECIPES).join(",") },
    part: { type: "string", default: "1/1" },
    threads: { type: "string", default: "1" },
    "stop-at": { type: "string" },
  },
});
const { corpora: folder, python, work } = given;
if (folder === undefined || python === undefined || work === undefined)
  throw new Error("give --corpora DIR, --python PYTHON and --work DIR");
if (!(given.budget in BUDGETS))
  throw new Error(`--budget ${given.budget}: expected ${Object.keys(BUDGETS).join(", ")}`);
const experiments = given.only.split(",");
for (const name of experiments)
  if (!(name in EXPERIMENTS)) throw new Error(`--only ${name}: expected ${Object.keys(EXPERIMENTS).join(", ")}`);
const methods = given.methods.split(",");
for (const name of methods)
  if (!(name in RECIPES)) throw new Error(`--methods ${name}: expected ${Object.keys(RECIPES).join(", ")}`);
const [part = NaN, parts = NaN] = given.part.split("/").map(Number);
if (!(part >= 1 && part <= parts)) throw new Error(`--part ${given.part}: expected I/N`);
const stopAt = given["stop-at"] === undefined ? Infinity : Date.parse(given["stop-at"]);
if (Number.isNaN(stopAt)) throw new Error(`--stop-at ${given["stop-at"]}: expected a time in ISO 8601`);
const threads = Number(given.threads);

const trainedBy: Readonly<Record<Method, (run: Run, files: Files) => Promise<Trained>>> = {
  none: untrained,
  prefix: trainOurs,
  prompt: trainOurs,
  infix: tune,
  adapter: tune,
  top: tune,
  full: tune,
};

mkdirSync(work, { recursive: true });
mkdirSync(new URL(".", RESULTS), { recursive: true });
const corpora = new Corpora(folder, work);
const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => stop.abort());
using worker = new PythonWorker(python, { threads, signal: stop.signal });
/** Started for the first prefix: other methods need none. */
let server: PaperServer | null = null;
const runs = runsOf(given.budget as BudgetName, experiments as Experiment[], Number(given.repeats)).filter(
  ({ method }) => methods.includes(method),
);
try {
  for (const [index, run] of runs.entries()) {
    if (index % parts !== part - 1 || keysOf(readResults()).has(keyOf(run))) continue;
    if (Date.now() >= stopAt || stop.signal.aborted) break;
    const began = performance.now();
    try {
      const result = await resultOf(run);
      addResult(result);
      const scored = result.scores === undefined ? "" : `, BLEU ${result.scores.bleu.toFixed(1)}`;
      const seconds = ((performance.now() - began) / 1000).toFixed(0);
      console.log(
        `${index + 1}/${runs.length} ${keyOf(run)}: loss ${result.devLoss.toFixed(3)}${scored}, ${seconds} s`,
      );
    } catch (error) {
      if (stop.signal.aborted) break;
      console.error(`${keyOf(run)}: ${String(error)}`);
      process.exitCode = 1;
    }
  }
} finally {
  // A function sets it, which the compiler does not see here.
  await (server as PaperServer | null)?.[Symbol.asyncDispose]();
}

/** The base as it is. */
async function untrained(_run: Run, files: Files): Promise<Trained> {
  const base = await paperServer();
  base.unload();
  const answers = await base.answers(files.testRows.map(({ prompt }) => prompt));
  return { parameters: 0, devLoss: await base.loss(files.dev), answers };
}

async function paperServer(): Promise<PaperServer> {
  return (server ??= await PaperServer.start(work!, { threads, signal: stop.signal }));
}

async function resultOf(run: Run): Promise<Result> {
  const files = corpora.files(run);
  const { parameters, devLoss, answers, checks } = await trainedBy[run.method](run, files);
  const result: Result = { run, parameters, devLoss, ...(checks === undefined ? {} : { checks }) };
  if (answers === null) return result;
  const scoresOf = (wanted: (row: Files["testRows"][number]) => boolean): Promise<Scores> => {
    const rows = files.testRows.flatMap((row, i) => (wanted(row) ? [{ answer: answers[i]!, row }] : []));
    return worker.ask<Scores>({
      op: "score",
      answers: rows.map(({ answer }) => answer),
      references: rows.map(({ row }) => row.references),
    });
  };
  const scores = await scoresOf(() => true);
  if (!files.testRows.some(({ isUnseen }) => isUnseen)) return { ...result, scores };
  const [seen, unseen] = [await scoresOf((row) => !row.isUnseen), await scoresOf((row) => row.isUnseen)];
  return { ...result, scores, seen, unseen };
}

async function trainOurs(run: Run, files: Files): Promise<Trained> {
  const out = join(work!, "adapter");
  const devLoss = await trainPrefix(run, files, out, { threads, signal: stop.signal });
  const parameters = run.size * (run.method === "prefix" ? 2 * 4 * 256 : 256);
  if (!run.isScored) return { parameters, devLoss, answers: null };
  const served = await paperServer();
  await served.load(out);
  const answers = await served.answers(files.testRows.map(({ prompt }) => prompt));
  const servedLoss = await served.loss(files.dev);
  if (!run.isChecked) return { parameters, devLoss, answers, checks: { servedLoss } };
  const peft = await worker.ask<{ loss: number; answers: string[] }>({
    op: "check",
    base: DEMO,
    adapter: out,
    dev: files.dev,
    test: files.test,
    maxTokens: MAX_TOKENS,
    maxNewTokens: MAX_NEW_TOKENS,
  });
  const same = answers.filter((answer, i) => answer === peft.answers[i]).length;
  return {
    parameters,
    devLoss,
    answers,
    checks: { servedLoss, peft: { loss: peft.loss, same, of: answers.length } },
  };
}

function tune(run: Run, files: Files): Promise<Trained> {
  const { method, size, rate, init, seed, isScored } = run;
  const { steps, batch } = BUDGETS[run.budget];
  return worker.ask<Trained>({
    op: "tune",
    base: DEMO,
    method,
    size,
    rate,
    init,
    seed,
    steps,
    batch,
    evaluateEvery: evaluateEvery(run),
    train: files.train,
    dev: files.dev,
    test: isScored ? files.test : null,
    maxTokens: MAX_TOKENS,
    maxNewTokens: MAX_NEW_TOKENS,
  });
}
