/** The rows of a run, as `prefixd train` and tools/paper read them. */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fork } from "../../src/load/random.ts";
import { promptOf, readTask, type TaskRow } from "../support/demo-tasks.ts";
import { BUDGETS, type Run, type Task } from "./plan.ts";

export interface TestRow {
  readonly prompt: string;
  readonly references: readonly string[];
  /** Whether training has no row of its domain (SGD), or none of its type where that was left out (E2E). */
  readonly isUnseen: boolean;
}

export interface Files {
  readonly train: string;
  readonly dev: string;
  readonly test: string;
  readonly testRows: readonly TestRow[];
}

/** SGD's service, E2E's type. */
const FIELD = { e2e: "Type", sgd_nlg: "service" } as const;

/** Reads a corpora folder as in tools/demo-model/README.md, and writes a run's files into a work folder. */
export class Corpora {
  readonly #folder: string;
  readonly #work: string;
  readonly #read = new Map<string, TaskRow[]>();

  constructor(folder: string, work: string) {
    this.#folder = folder;
    this.#work = work;
  }

  files(run: Run): Files {
    const { task, without, budget, sample } = run;
    const { dev, test } = BUDGETS[budget];
    const known = this.#rows(task, "train").filter((row) => without === null || !names(row, without));
    const count = Math.min(run.rows ?? BUDGETS[budget].rows, known.length);
    // As the paper: with few rows also few to choose the best evaluation on.
    const devRows = run.rows === null ? dev : Math.min(dev, Math.round(0.3 * run.rows));
    const train = sampled(known, count, `train ${sample}`);
    const seen = new Set(known.map((row) => valueOf(row, task)));
    const isUnseen = (row: TaskRow): boolean =>
      without === null ? task === "sgd_nlg" && !seen.has(valueOf(row, task)) : valueOf(row, task) === without;
    const testRows = halves(this.#rows(task, "test"), isUnseen, test).map((row) => ({
      prompt: promptOf(row),
      references: row.references ?? [row.target],
      isUnseen: isUnseen(row),
    }));
    const held = this.#rows(task, "dev").filter((row) => without === null || !names(row, without));
    const write = (name: string, lines: readonly object[]): string => {
      const file = join(this.#work, `${name}.jsonl`);
      if (!existsSync(file)) writeFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
      return file;
    };
    const whole = without === null ? task : `${task}-without-${without}`;
    const example = (row: TaskRow): object => ({ prompt: promptOf(row), completion: ` ${row.target.trim()}` });
    return {
      train: write(`${whole}-train-${count}-${sample}`, train.map(example)),
      dev: write(`${whole}-dev-${devRows}`, sampled(held, devRows, "dev").map(example)),
      test: write(
        `${whole}-test-${test}`,
        testRows.map(({ prompt, references }) => ({ prompt, completion: ` ${references[0]!.trim()}` })),
      ),
      testRows,
    };
  }

  #rows(task: Task, split: "train" | "dev" | "test"): readonly TaskRow[] {
    const key = `${task} ${split}`;
    let rows = this.#read.get(key);
    if (rows === undefined) this.#read.set(key, (rows = readTask(this.#folder, task, split)));
    return rows;
  }
}

const names = ({ input, target }: TaskRow, word: string): boolean =>
  input.toLowerCase().includes(word) || target.toLowerCase().includes(word);

const valueOf = ({ input }: TaskRow, task: Task): string | null =>
  new RegExp(`(?:^|\\| )${FIELD[task]} : ([^|]*?) *(?:\\||$)`).exec(input)?.[1] ?? null;

/** A seeded sample. */
function sampled<T>(rows: readonly T[], count: number, purpose: string): T[] {
  const random = fork(1, purpose);
  return rows
    .map((row) => ({ row, key: random() }))
    .sort((a, b) => a.key - b.key)
    .slice(0, count)
    .map(({ row }) => row);
}

/** Half of the rows unseen, if there are such; else any. */
function halves(rows: readonly TaskRow[], isUnseen: (row: TaskRow) => boolean, count: number): TaskRow[] {
  const unseen = rows.filter(isUnseen);
  const seen = rows.filter((row) => !isUnseen(row));
  const half = unseen.length === 0 ? 0 : Math.min(Math.floor(count / 2), unseen.length);
  return [...sampled(seen, count - half, "test"), ...sampled(unseen, half, "test")];
}
