/**
 * How much quality do int8 and fp16 lose? Held-out rows of the demo's tasks, with their prefixes, compared with fp32.
 *
 *     CORPORA=DIR npm run bench -- quality
 *
 * DIR holds `tasks/<task>.test.jsonl.xz` as in tools/demo-model/README.md; needs `xz`. A task's score, of greedy
 * answers, is the share that equals a reference, or corpus BLEU (also 0 to 100) for tasks whose answers are sentences.
 * Perplexity is of the reference's tokens and its end; next tokens are compared at each of these. fp16 runs its graph
 * on the CPU, where ONNX Runtime rounds to half precision between operators: it tells a GPU's loss, not its speed.
 */
import { join } from "node:path";
import type { StepOutput } from "../src/engine/runner.ts";
import type { KvTensor } from "../src/kv.ts";
import { PRECISIONS, type Precision } from "../src/model/graph-weights.ts";
import type { ModelRunner } from "../src/engine/runner.ts";
import { corpusBleu } from "../src/reporting/bleu.ts";
import { loadTokenizer, type Tokenizer } from "../src/text/tokenizer.ts";
import { answerOf, prefixIn, promptOf, sampleOf, targetOf, taskRows } from "./support/demo-tasks.ts";
import { newEngine, openFolder } from "./support/gpt2.ts";
import { machineOfInt8, table, writeSection } from "./support/report.ts";

const ROWS = Number(process.env["ROWS"] ?? 1000);
const LONGEST_PROMPT = 300;
const SLOTS = 32;
const TASKS = ["datenorm", "datelong", "intent", "truecase", "e2e", "sgd_nlg"] as const;
/** Tasks whose answers are sentences with many correct wordings. */
const BLEU_TASKS: ReadonlySet<string> = new Set(["e2e", "sgd_nlg"]);
/** Acceptable loss of int8: points of a score (0 to 100), and a share of the perplexity. */
const MAY_LOSE = { points: 1, perplexity: 0.01 };

interface Row {
  readonly prompt: Int32Array;
  readonly target: Int32Array;
  readonly references: readonly string[];
}

interface Result extends Scored {
  /** 0 to 100. */
  readonly points: number;
  readonly answers: readonly string[];
}

interface Scored {
  readonly perplexity: number;
  /** The likeliest token at each position of the references. */
  readonly next: readonly number[];
}

const corpora = process.env["CORPORA"];
if (corpora === undefined) {
  console.log("quality: skipped, CORPORA is not set");
  process.exit(0);
}
const ROOT = new URL("..", import.meta.url).pathname;
const MODEL = join(ROOT, "models/demo");
const rows: (string | number)[][] = [];
const results = new Map<string, Result>();
for (const precision of PRECISIONS) {
  await using model = await openFolder(MODEL, SLOTS, precision);
  const tokenizer = await loadTokenizer(MODEL, model.shape.vocabSize);
  const eosId = tokenizer.eosId!;
  const engine = newEngine(model.runner);
  for (const task of TASKS) {
    const prefix = prefixIn(join(ROOT, "prefixes", task), model);
    const taskRows = readRows(corpora, task, tokenizer, eosId);
    const scored = await score(model.runner, prefix, taskRows);
    const answers = await Promise.all(
      taskRows.map(async ({ prompt }) => {
        const given = { promptIds: prompt, prefix, maxNewTokens: 90 };
        return (await answerOf(engine, tokenizer, given)).text;
      }),
    );
    results.set(`${task} ${precision}`, { ...scored, points: pointsOf(task, answers, taskRows), answers });
    process.stderr.write(`${precision} ${task}\n`);
  }
}
const percent = (share: number, digits = 1): string => `${(100 * share).toFixed(digits)} %`;
const agreeing = <T>(a: readonly T[], b: readonly T[]): number =>
  a.filter((value, index) => value === b[index]).length / a.length;
for (const task of TASKS) {
  const of = (precision: Precision): Result => results.get(`${task} ${precision}`)!;
  for (const precision of PRECISIONS) {
    const { perplexity, next, points, answers } = of(precision);
    const same =
      precision === "fp32"
        ? ["", ""]
        : [percent(agreeing(next, of("fp32").next), 2), percent(agreeing(answers, of("fp32").answers))];
    rows.push([
      task,
      precision,
      answers.length,
      `${BLEU_TASKS.has(task) ? "BLEU" : "exact"} ${points.toFixed(2)}`,
      perplexity.toFixed(4),
      ...same,
    ]);
  }
}
const verdicts = TASKS.map((task) => {
  const [fp32, int8] = [results.get(`${task} fp32`)!, results.get(`${task} int8`)!];
  const lost = fp32.points - int8.points;
  const more = int8.perplexity / fp32.perplexity - 1;
  return [
    task,
    lost.toFixed(2),
    percent(more, 2),
    lost <= MAY_LOSE.points && more <= MAY_LOSE.perplexity ? "yes" : "**no**",
  ];
});
writeSection("quality", [
  `Demo model with its prefixes, a seeded sample of test rows of each task. ${await machineOfInt8()}.`,
  "",
  ...table(["task", "precision", "rows", "score", "perplexity", "next token as fp32's", "answer as fp32's"], rows),
  "",
  ...table(
    [
      "task",
      "points that int8 loses",
      "perplexity that it adds",
      `at most ${MAY_LOSE.points} point and ${percent(MAY_LOSE.perplexity, 0)}`,
    ],
    verdicts,
  ),
]);
console.log([...rows, ...verdicts].map((row) => row.join("  ")).join("\n"));
process.exit(0);

function pointsOf(task: string, answers: readonly string[], taskRows: readonly Row[]): number {
  if (BLEU_TASKS.has(task))
    return corpusBleu(
      answers,
      taskRows.map(({ references }) => references),
    );
  return (100 * answers.filter((text, index) => taskRows[index]!.references.includes(text)).length) / answers.length;
}

function readRows(folder: string, task: string, tokenizer: Tokenizer, eosId: number): Row[] {
  const found: Row[] = [];
  for (const row of taskRows(folder, task, "test")) {
    const prompt = tokenizer.encode(promptOf(row));
    if (prompt.length < LONGEST_PROMPT) {
      found.push({
        prompt,
        target: Int32Array.from([...tokenizer.encode(targetOf(row)), eosId]),
        references: row.references ?? [row.target],
      });
    }
  }
  return sampleOf(found, ROWS);
}

async function score(runner: ModelRunner, prefix: KvTensor, all: readonly Row[]): Promise<Scored> {
  let loss = 0;
  const next: number[] = [];
  const take = (output: StepOutput, row: number, target: number): void => {
    loss += output.logSumExp[row]! - output.logits(row)[target]!;
    next.push(output.topIds[row * output.candidates]!);
  };
  for (let from = 0; from < all.length; from += SLOTS) {
    // Longest first, so that finished rows are the last ones.
    const batch = all.slice(from, from + SLOTS).sort((a, b) => b.target.length - a.target.length);
    for (const [row, { prompt, target }] of batch.entries()) {
      runner.loadPrefix(row, prefix);
      const output = await runner.prefill(row, prefix.length, prompt, "last");
      take(output, 0, target[0]!);
    }
    for (let step = 1; step < batch[0]!.target.length; step++) {
      const open = batch.filter(({ target }) => step < target.length);
      const ids = Int32Array.from(open, ({ target }) => target[step - 1]!);
      const output = await runner.decode(
        ids,
        Int32Array.from(open, ({ prompt }) => prefix.length + prompt.length + step - 1),
      );
      open.forEach(({ target }, row) => take(output, row, target[step]!));
    }
  }
  return { perplexity: Math.exp(loss / next.length), next };
}
