/** The runs of docs/paper.md: what is trained, on how much, and how often it is repeated. */

export type Task = "e2e" | "sgd_nlg";
/** prefix and prompt: by `prefixd train`. The others: by tools/paper. */
export type Method = "prefix" | "prompt" | "infix" | "adapter" | "top" | "full";

/** What every run of a budget has; a run may have fewer rows. */
export interface Budget {
  /** Rows of the training file, at most. */
  readonly rows: number;
  readonly steps: number;
  readonly batch: number;
  /** Rows to choose the best evaluation on, of the dev split. */
  readonly dev: number;
  /** Rows to answer, of the test split. */
  readonly test: number;
}

export const BUDGETS = {
  thin: { rows: 2_000, steps: 100, batch: 8, dev: 32, test: 64 },
  small: { rows: 8_000, steps: 400, batch: 16, dev: 100, test: 200 },
  full: { rows: 40_000, steps: 2_500, batch: 16, dev: 200, test: 2_000 },
} as const satisfies Record<string, Budget>;
export type BudgetName = keyof typeof BUDGETS;

/** A cell of a table, without the budget and the repetition. */
export interface Cell {
  readonly task: Task;
  readonly method: Method;
  /** Virtual tokens, width of the bottleneck, or blocks; 0: all of the model. */
  readonly size: number;
  readonly rate: number;
  /** Rows to train on; null: the budget's. */
  readonly rows: number | null;
  /** The text that it begins as; null: random values. */
  readonly init: string | null;
  /** Rows that name this are left out of training. */
  readonly without: string | null;
  /** Whether test rows are answered and scored; otherwise only the loss on dev rows is taken. */
  readonly isScored: boolean;
  /** Whether PEFT loads the adapter, too. */
  readonly isChecked: boolean;
}

/** One run; its result is found again by these fields. */
export interface Run extends Cell {
  readonly budget: BudgetName;
  readonly seed: number;
  /** Which sample of the training rows. */
  readonly sample: number;
}

/** Learning rates that are tried. */
const TRIED: Readonly<Record<Method, readonly number[]>> = {
  prefix: [0.03, 0.1, 0.3],
  prompt: [0.03, 0.1, 0.3],
  infix: [0.03, 0.1, 0.3],
  adapter: [1e-3, 3e-3, 1e-2],
  top: [1e-4, 3e-4, 1e-3],
  full: [1e-4, 3e-4, 1e-3],
};

/** Those that the other experiments use: the best on dev rows, as far as they have been tried. */
export const RATES: Readonly<Record<Method, number>> = {
  prefix: 0.1,
  prompt: 0.1,
  infix: 0.1,
  adapter: 3e-3,
  top: 3e-4,
  full: 3e-4,
};

function cell(task: Task, method: Method, size: number, given: Partial<Cell> = {}): Cell {
  return {
    task,
    method,
    size,
    rate: RATES[method],
    rows: null,
    init: null,
    without: null,
    isScored: true,
    isChecked: false,
    ...given,
  };
}

/** The paper's methods with as many trained parameters, as a share of the model's, as there. */
export const METHODS: readonly { readonly name: string; readonly method: Method; readonly size: number }[] = [
  { name: "prefix, 0.1 %", method: "prefix", size: 2 },
  { name: "prefix, 2 %", method: "prefix", size: 42 },
  { name: "adapter, 0.1 %", method: "adapter", size: 1 },
  { name: "adapter, 3 %", method: "adapter", size: 32 },
  { name: "top 2 layers", method: "top", size: 2 },
  { name: "full fine-tuning", method: "full", size: 0 },
];

export const TASKS: readonly Task[] = ["e2e", "sgd_nlg"];
export const SIZES = [50, 100, 200, 500] as const;
export const LENGTHS = [1, 2, 5, 10, 20, 50, 100, 200] as const;
export const PLACES = [1, 10, 20] as const;
/** Virtual tokens where neither the paper nor a table says how many. */
export const LENGTH = 10;
export const UNSEEN = "restaurant";
/** The paper's words, and what stood before such rows in the base's pre-training. */
export const INITS: readonly { readonly name: string; readonly text: string | null }[] = [
  { name: "random", text: null },
  { name: "irrelevant: elephant", text: "elephant" },
  { name: "irrelevant: divide", text: "divide" },
  { name: "relevant: summarize", text: "summarize" },
  { name: "relevant: table-to-text", text: "table-to-text" },
  { name: "pre-training's instruction", text: "Describe the place." },
];
const INIT_ROWS = 100;

const of = ({ method, size }: (typeof METHODS)[number], task: Task, given: Partial<Cell> = {}): Cell =>
  cell(task, method, size, given);

export const methodCell = of;
export const lowDataCell = (method: "prefix" | "full", rows: number): Cell =>
  cell("e2e", method, method === "full" ? 0 : LENGTH, { rows });
export const lengthCell = (length: number): Cell => cell("e2e", "prefix", length, { isChecked: length === LENGTH });
export const initCell = (init: string | null): Cell => cell("e2e", "prefix", LENGTH, { rows: INIT_ROWS, init });
export const unseenCell = (method: (typeof METHODS)[number]): Cell => of(method, "e2e", { without: UNSEEN });
export const placeCell = (method: "prompt" | "infix", length: number): Cell =>
  cell("e2e", method, length, { isChecked: method === "prompt" && length === LENGTH });
/** The cell of each rate that is tried; that of the chosen rate is one of another experiment's, and so scored. */
export const rateCells = (method: Method): Cell[] => {
  const size = { prefix: LENGTH, prompt: LENGTH, infix: LENGTH, adapter: 32, top: 2, full: 0 }[method];
  const chosen = { ...cell("e2e", method, size), isChecked: method === "prefix" || method === "prompt" };
  return TRIED[method].map((rate) =>
    rate === RATES[method] ? chosen : { ...chosen, rate, isScored: false, isChecked: false },
  );
};

/** The middle rate of all methods first. */
const RATE_ORDER = [1, 2, 0];
const TUNED = ["full", "top", "adapter", "infix", "prompt", "prefix"] as const;

/** The experiments in the paper's order: their cells, and how often each is repeated. */
export const EXPERIMENTS = {
  rates: { repeats: 1, cells: RATE_ORDER.flatMap((i) => TUNED.map((method) => rateCells(method)[i]!)) },
  methods: { repeats: 5, cells: TASKS.flatMap((task) => METHODS.map((method) => of(method, task))) },
  data: { repeats: 10, cells: SIZES.flatMap((rows) => [lowDataCell("prefix", rows), lowDataCell("full", rows)]) },
  length: { repeats: 5, cells: LENGTHS.map(lengthCell) },
  init: { repeats: 5, cells: INITS.map(({ text }) => initCell(text)) },
  unseen: { repeats: 5, cells: METHODS.map(unseenCell) },
  place: { repeats: 5, cells: PLACES.flatMap((length) => [placeCell("prompt", length), placeCell("infix", length)]) },
} as const satisfies Record<string, { readonly repeats: number; readonly cells: readonly Cell[] }>;
export type Experiment = keyof typeof EXPERIMENTS;

/** Samples of low-data rows; the paper draws five, with two seeds each. */
const SAMPLES = 5;

/**
 * The runs of a budget, every cell once before any cell twice, the experiments in turn, so that all of them have
 * figures early. Cells that two experiments share are run once. With few rows repetition r has sample r, then the samples again
 * with another seed.
 */
export function runsOf(budget: BudgetName, experiments: readonly Experiment[], repeats: number): Run[] {
  const runs = new Map<string, Run>();
  for (let repeat = 1; repeat <= repeats; repeat++) {
    const chosen = experiments.map((name) => EXPERIMENTS[name]).filter((one) => repeat <= one.repeats);
    const most = Math.max(0, ...chosen.map(({ cells }) => cells.length));
    const inTurn = Array.from({ length: most }, (_, i) => chosen.flatMap(({ cells }) => cells[i] ?? []));
    for (const one of inTurn.flat()) {
      const few = one.rows !== null;
      const sample = few ? ((repeat - 1) % SAMPLES) + 1 : 0;
      const seed = few ? Math.ceil(repeat / SAMPLES) : repeat;
      const run = { ...one, budget, seed, sample };
      runs.set(keyOf(run), run);
    }
  }
  return [...runs.values()];
}

/** The fields of a run in one order. */
export const keyOf = (run: Run): string => JSON.stringify([cellKey(run), run.budget, run.seed, run.sample]);

export const cellKey = (one: Cell): string =>
  JSON.stringify([
    one.task,
    one.method,
    one.size,
    one.rate,
    one.rows,
    one.init,
    one.without,
    one.isScored,
    one.isChecked,
  ]);
