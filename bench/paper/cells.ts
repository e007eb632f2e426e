/** Repeated runs as means and spreads, and which budget an experiment's table shows. */
import { BUDGETS, cellKey, EXPERIMENTS, type BudgetName, type Cell, type Experiment } from "./plan.ts";
import type { Result, Scores } from "./results.ts";

/** Of `n` runs; the sample standard deviation is null for one run. */
export interface Figure {
  readonly mean: number;
  readonly deviation: number | null;
  readonly n: number;
}

/** The results of one experiment at one budget. */
export class Table {
  readonly budget: BudgetName;
  readonly #byCell = new Map<string, Result[]>();

  constructor(budget: BudgetName, results: readonly Result[]) {
    this.budget = budget;
    for (const result of results) {
      if (result.run.budget !== budget) continue;
      const key = cellKey(result.run);
      this.#byCell.set(key, [...(this.#byCell.get(key) ?? []), result]);
    }
  }

  results(cell: Cell): readonly Result[] {
    return this.#byCell.get(cellKey(cell)) ?? [];
  }

  /** Null: no run has it. */
  figure(cell: Cell, value: (result: Result) => number | undefined): Figure | null {
    return figureOf(this.results(cell).flatMap((result) => value(result) ?? []));
  }
}

export function figureOf(values: readonly number[]): Figure | null {
  const n = values.length;
  if (n === 0) return null;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: n === 1 ? null : Math.sqrt(squares / (n - 1)), n };
}

export const score =
  (name: keyof Scores, rows: "scores" | "seen" | "unseen" = "scores") =>
  (result: Result): number | undefined =>
    result[rows]?.[name];

/** The largest budget that has a run of every cell; if none has, the one with the most cells. */
export function tableOf(experiment: Experiment, results: readonly Result[]): Table {
  const { cells } = EXPERIMENTS[experiment];
  const largestFirst = (Object.keys(BUDGETS) as BudgetName[]).sort((a, b) => BUDGETS[b].steps - BUDGETS[a].steps);
  const tables = largestFirst.map((budget) => new Table(budget, results));
  const filled = (table: Table): number => cells.filter((cell) => table.results(cell).length > 0).length;
  return tables.reduce((best, table) => (filled(table) > filled(best) ? table : best));
}

/** `45.3 ± 0.8 (3)`: mean, standard deviation, runs. */
export function textOf(figure: Figure | null, digits: number): string {
  if (figure === null) return "";
  const { mean, deviation, n } = figure;
  return `${mean.toFixed(digits)}${deviation === null ? "" : ` ± ${deviation.toFixed(digits)}`} (${n})`;
}
