/**
 * docs/paper.md: its tables and plots are those of the committed results (`npm run docs` writes them), means and
 * spreads are right, and no verdict goes beyond the spread.
 */
import { readFileSync, writeFileSync } from "node:fs";
import t from "tap";
import { figureOf, Table, tableOf, textOf } from "../../bench/paper/cells.ts";
import { CLAIMS, verdict } from "../../bench/paper/claims.ts";
import { pageOf } from "../../bench/paper/page.ts";
import {
  BUDGETS,
  cellKey,
  EXPERIMENTS,
  keyOf,
  lengthCell,
  RECIPES,
  runsOf,
  type Cell,
  type Experiment,
  type Run,
} from "../../bench/paper/plan.ts";
import { readResults, type Result } from "../../bench/paper/results.ts";
import { docsBlock, repositoryFile } from "../support/docs-block.ts";

const PAGE = "docs/paper.md";
const ALL = Object.keys(EXPERIMENTS) as Experiment[];

t.test("the page shows the committed results", async (t) => {
  const { blocks, plots } = pageOf(readResults());
  for (const [name, fresh] of blocks) t.equal(docsBlock(PAGE, name, fresh), fresh, `${name}: npm run docs`);
  for (const [name, fresh] of plots) {
    const file = repositoryFile(`docs/reference/plots/${name}.svg`);
    if (process.env["UPDATE_DOCS"] === "1") writeFileSync(file, fresh);
    t.equal(readFileSync(file, "utf8"), fresh, `${name}.svg: npm run docs`);
  }
});

t.test("committed results are runs of the plan, each once", async (t) => {
  const results = readResults();
  t.ok(results.length > 0);
  // Runs of a recipe that is no longer the chosen one stay.
  const planned = (cell: Cell): string => cellKey({ ...cell, ...RECIPES.none });
  const cells = new Set(Object.values(EXPERIMENTS).flatMap((one) => one.cells.map(planned)));
  const keys = results.map(({ run }) => keyOf(run));
  t.equal(new Set(keys).size, keys.length);
  for (const { run, scores, devLoss } of results) {
    t.ok(run.budget in BUDGETS, run.budget);
    t.ok(cells.has(planned(run)), `planned: ${keyOf(run)}`);
    t.equal(scores !== undefined, run.isScored);
    t.ok(devLoss > 0);
    if (scores !== undefined) t.ok(scores.bleu > 0 && scores.bleu <= 100 && scores.rougeL > 0 && scores.rougeL <= 100);
  }
});

t.test("runs: each cell once before any cell twice, shared cells once, samples then seeds", async (t) => {
  const once = runsOf("thin", ALL, 1);
  const twice = runsOf("thin", ALL, 2);
  t.same(twice.slice(0, once.length), once);
  t.equal(new Set(twice.map(keyOf)).size, twice.length);
  t.equal(once.filter(({ method, size, rows }) => method === "prefix" && size === 42 && rows === null).length, 3);
  const few = runsOf("thin", ["data"], 99).filter(({ method, rows }) => method === "full" && rows === 50);
  t.same(
    few.map(({ sample, seed }) => [sample, seed]),
    [1, 2].flatMap((seed) => [1, 2, 3, 4, 5].map((sample) => [sample, seed])),
  );
});

const resultOf = (run: Partial<Run>, bleu: number): Result => ({
  run: { ...lengthCell(1), budget: "thin", seed: 1, sample: 0, ...run },
  parameters: 2048,
  devLoss: 2,
  scores: { bleu, nist: 1, meteor: 1, rougeL: 1 },
});

t.test("figures", async (t) => {
  t.equal(textOf(figureOf([1, 2, 3]), 1), "2.0 ± 1.0 (3)");
  t.equal(textOf(figureOf([2]), 1), "2.0 (1)");
  t.equal(textOf(figureOf([]), 1), "");
  const table = new Table("thin", [resultOf({}, 40), resultOf({ seed: 2 }, 50), resultOf({ budget: "full" }, 90)]);
  t.match(
    table.figure(lengthCell(1), ({ scores }) => scores?.bleu),
    { mean: 45, n: 2 },
    "another budget does not count",
  );
});

t.test("a table shows the largest budget that is complete, else the fullest", async (t) => {
  const all = (budget: "thin" | "small", cells: readonly Run[]): Result[] =>
    cells.map((run) => resultOf({ ...run, budget }, 50));
  const runs = runsOf("thin", ["length"], 1);
  t.equal(tableOf("length", [...all("thin", runs), ...all("small", runs.slice(1))]).budget, "thin");
  t.equal(tableOf("length", [...all("thin", runs), ...all("small", runs)]).budget, "small");
});

t.test("verdicts stay within the spread", async (t) => {
  const at = (...values: number[]) => figureOf(values);
  t.match(verdict("above", at(50, 52), at(40, 42)), /^holds/);
  t.match(verdict("above", at(40, 42), at(50, 52)), /^does not hold/);
  t.match(verdict("above", at(50, 60), at(48, 58)), /^undecided: within/);
  t.match(verdict("not below", at(50, 60), at(52, 62)), /^holds: within/);
  t.match(verdict("not below", at(40, 42), at(50, 52)), /^does not hold/);
  t.match(verdict("above", at(60), at(40)), /^undecided, one run/);
  t.equal(verdict("above", null, at(40)), null);
  const known = new Set(Object.values(EXPERIMENTS).flatMap((one) => one.cells.map(cellKey)));
  for (const { text, first, second } of CLAIMS) t.ok(known.has(cellKey(first)) && known.has(cellKey(second)), text);
});
