/** The runs of docs/paper.md: what is trained, on how much, and how often it is repeated. */

export type Task = "e2e" | "sgd_nlg";
/** none: the base as it is. prefix and prompt: by `prefixd train`. The others: by tools/paper. */
export type Method = "none" | "prefix" | "prompt" | "infix" | "adapter" | "top" | "full";

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

/** How a method is trained, as far as that is chosen. */
export interface Recipe {
  readonly rate: number;
  /** The text that it begins as; null: random values. */
  readonly init: string | null;
  /** The hidden size of the network that makes the prefix, as in the paper; 0: none. */
  readonly network: number;
}

/** A cell of a table, without the budget and the repetition. */
export interface Cell extends Recipe {
  readonly task: Task;
  readonly method: Method;
  /** Virtual tokens, width of the bottleneck, or blocks; 0: all of the model. */
  readonly size: number;
  /** Rows to train on; null: the budget's. */
  readonly rows: number | null;
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

/** The paper's relevant words for a table, and half of the model's width. */
const WORDS = "table-to-text";
const NETWORK = 128;

const tried = (rates: readonly number[], given: Partial<Recipe> = {}): Recipe[] =>
  rates.map((rate) => ({ rate, init: null, network: 0, ...given }));
const RANDOM = [0.03, 0.1, 0.3];
const AS_WORDS = [0.01, 0.03, 0.1, 0.3];

/** The recipes that are tried, of each method. */
export const TRIED = {
  prefix: [
    ...tried(RANDOM),
    ...tried(AS_WORDS, { init: WORDS }),
    ...tried([1e-3, 3e-3, 1e-2, 3e-2], { network: NETWORK }),
  ],
  prompt: [...tried(RANDOM), ...tried(AS_WORDS, { init: WORDS })],
  infix: [...tried(RANDOM), ...tried(AS_WORDS, { init: WORDS })],
  adapter: tried([1e-3, 3e-3, 1e-2]),
  top: tried([1e-4, 3e-4, 1e-3, 3e-3]),
  full: tried([1e-4, 3e-4, 1e-3, 3e-3]),
} as const satisfies Partial<Record<Method, readonly Recipe[]>>;
export type Trained = keyof typeof TRIED;

/** Those that all else is trained by: the best on dev rows, as far as they have been tried. */
export const RECIPES: Readonly<Record<Method, Recipe>> = {
  none: { rate: 0, init: null, network: 0 },
  prefix: { rate: 0.1, init: WORDS, network: 0 },
  prompt: { rate: 0.01, init: WORDS, network: 0 },
  infix: { rate: 0.03, init: WORDS, network: 0 },
  adapter: { rate: 3e-3, init: null, network: 0 },
  top: { rate: 1e-3, init: null, network: 0 },
  full: { rate: 1e-3, init: null, network: 0 },
};
/** With few rows the rates are tried apart. */
export const TRIED_FEW = {
  prefix: [...tried(RANDOM), ...tried([0.003, 0.01, 0.03, 0.1], { init: WORDS })],
  full: tried([1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]),
} as const satisfies Partial<Record<Method, readonly Recipe[]>>;
export type Few = keyof typeof TRIED_FEW;
export const FEW_RECIPES: Readonly<Record<Few, Recipe>> = {
  prefix: { rate: 0.01, init: WORDS, network: 0 },
  full: { rate: 3e-6, init: null, network: 0 },
};
/** The best rate there of a prefix that begins with random values. */
const RANDOM_RATE = 0.03;

function cell(task: Task, method: Method, size: number, given: Partial<Cell> = {}): Cell {
  return {
    task,
    method,
    size,
    ...RECIPES[method],
    rows: null,
    without: null,
    isScored: true,
    isChecked: false,
    ...given,
  };
}

/** The paper's methods with as many trained parameters, as a share of the model's, as there. */
export const METHODS: readonly { readonly name: string; readonly method: Method; readonly size: number }[] = [
  { name: "no training", method: "none", size: 0 },
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
  { name: "relevant: table-to-text", text: WORDS },
  { name: "pre-training's instruction", text: "Describe the place." },
];
const FEW_ROWS = 100;

const of = ({ method, size }: (typeof METHODS)[number], task: Task, given: Partial<Cell> = {}): Cell =>
  cell(task, method, size, given);

export const methodCell = of;
export const lowDataCell = (method: Few, rows: number): Cell =>
  cell("e2e", method, method === "full" ? 0 : LENGTH, { ...FEW_RECIPES[method], rows });
export const lengthCell = (length: number): Cell => cell("e2e", "prefix", length, { isChecked: length === LENGTH });
export const initCell = (init: string | null): Cell =>
  cell("e2e", "prefix", LENGTH, {
    rows: FEW_ROWS,
    init,
    network: 0,
    rate: init === null ? RANDOM_RATE : FEW_RECIPES.prefix.rate,
  });
export const unseenCell = (method: (typeof METHODS)[number]): Cell => of(method, "e2e", { without: UNSEEN });
export const placeCell = (method: "prompt" | "infix", length: number): Cell =>
  cell("e2e", method, length, { isChecked: method === "prompt" && length === LENGTH });
/** The cell of each recipe that is tried: only its loss on dev rows is taken. */
export const recipeCells = (method: Trained): Cell[] => {
  const size = { prefix: LENGTH, prompt: LENGTH, infix: LENGTH, adapter: 32, top: 2, full: 0 }[method];
  return TRIED[method].map((recipe) => cell("e2e", method, size, { ...recipe, isScored: false }));
};
export const fewRecipeCells = (method: Few): Cell[] =>
  TRIED_FEW[method].map((recipe) => ({ ...lowDataCell(method, FEW_ROWS), ...recipe, isScored: false }));
export const isChosen = ({ method, rows, rate, init, network }: Cell): boolean => {
  const chosen = rows === null ? RECIPES[method] : FEW_RECIPES[method as Few];
  return rate === chosen.rate && init === chosen.init && network === chosen.network;
};

/** The experiments in the paper's order: their cells, and how often each is repeated. */
export const EXPERIMENTS = {
  recipes: {
    repeats: 1,
    cells: [
      ...(Object.keys(TRIED) as Trained[]).flatMap(recipeCells),
      ...(Object.keys(TRIED_FEW) as Few[]).flatMap(fewRecipeCells),
    ],
  },
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
    one.network,
    one.without,
    one.isScored,
    one.isChecked,
  ]);
