/** The generated parts of docs/paper.md: tables between markers, and plots. */
import { linePlot } from "../../src/reporting/plot.ts";
import { table as markdown } from "../support/report.ts";
import { score, tableOf, textOf, type Figure, type Table } from "./cells.ts";
import { CLAIMS, verdicts } from "./claims.ts";
import {
  BUDGETS,
  EXPERIMENTS,
  INITS,
  initCell,
  lengthCell,
  LENGTHS,
  lowDataCell,
  methodCell,
  METHODS,
  placeCell,
  PLACES,
  fewRecipeCells,
  isChosen,
  recipeCells,
  SIZES,
  TASKS,
  TRIED,
  TRIED_FEW,
  unseenCell,
  type Cell,
  type Experiment,
  type Few,
  type Method,
  type Trained,
} from "./plan.ts";
import type { Result, Scores } from "./results.ts";

const METRICS: readonly { readonly key: keyof Scores; readonly name: string; readonly digits: number }[] = [
  { key: "bleu", name: "BLEU", digits: 1 },
  { key: "nist", name: "NIST", digits: 2 },
  { key: "meteor", name: "METEOR", digits: 1 },
  { key: "rougeL", name: "ROUGE-L", digits: 1 },
  { key: "cider", name: "CIDEr", digits: 2 },
];
const METHOD_NAMES: Readonly<Record<Method, string>> = {
  none: "no training",
  prefix: "prefix",
  prompt: "embedding-only",
  infix: "infix",
  adapter: "adapter",
  top: "top 2 layers",
  full: "full fine-tuning",
};

export interface Page {
  /** Markdown by the name of its markers. */
  readonly blocks: ReadonlyMap<string, string>;
  /** SVG by the name of its file in docs/reference/plots. */
  readonly plots: ReadonlyMap<string, string>;
}

export function pageOf(results: readonly Result[]): Page {
  const found = new Map<Experiment, Table>();
  const tables = (experiment: Experiment): Table => {
    let one = found.get(experiment);
    if (one === undefined) found.set(experiment, (one = tableOf(experiment, results)));
    return one;
  };
  const block = (experiment: Experiment, lines: readonly string[]): string =>
    lines.length === 0 ? "Not run yet.\n" : [budgetLine(experiment, tables(experiment)), "", ...lines, ""].join("\n");
  const [methods, data, length, init, unseen, place] = (
    ["methods", "data", "length", "init", "unseen", "place"] as const
  ).map(tables) as [Table, Table, Table, Table, Table, Table];
  const blocks = new Map<string, string>([
    ["recipes", block("recipes", recipeTable(tables("recipes")))],
    ...TASKS.map(
      (task) =>
        [
          task,
          block(
            "methods",
            methodTable(methods, (one) => methodCell(one, task)),
          ),
        ] as const,
    ),
    ["data", block("data", dataTable(data))],
    ["length", block("length", lengthTable(length))],
    [
      "init",
      block(
        "init",
        scoreTable(
          "starts as",
          INITS.map(({ name, text }) => [name, initCell(text)]),
          init,
        ),
      ),
    ],
    [
      "unseen-sgd",
      block(
        "methods",
        seenTable(methods, (one) => methodCell(one, "sgd_nlg")),
      ),
    ],
    ["unseen-e2e", block("unseen", seenTable(unseen, unseenCell))],
    ["place", block("place", placeTable(place))],
    ["served", `${servedTable(results).join("\n")}\n`],
    ["claims", `${claimTable(verdicts(CLAIMS, tables)).join("\n")}\n`],
  ]);
  return {
    blocks,
    plots: new Map([
      ["paper-data", dataPlot(data)],
      ["paper-length", lengthPlot(length)],
    ]),
  };
}

/** Without the rows that have no figure yet; nothing if none has. */
function filled(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  const known = rows.filter((row) => row.slice(1).some((cell) => cell !== ""));
  const missing = rows.filter((row) => !known.includes(row)).map(([name]) => name);
  if (known.length === 0) return [];
  return [...markdown(head, known), ...(missing.length === 0 ? [] : ["", `Not run yet: ${missing.join("; ")}.`])];
}

function claimTable(rows: readonly (readonly [string, string | null])[]): string[] {
  const known = rows.flatMap(([claim, found]) => (found === null ? [] : [[claim, found]]));
  const missing = rows.length - known.length;
  return [
    ...(known.length === 0 ? [] : [...markdown(["the paper's finding, in BLEU", "here"], known), ""]),
    ...(missing === 0 ? [] : [`Not run yet: ${missing} of ${rows.length}.`]),
  ];
}

/** A plot below its table, if that has figures. */
const withPlot = (lines: readonly string[], text: string, name: string): string[] =>
  lines.length === 0 ? [] : [...lines, "", `![${text}](reference/plots/${name}.svg)`];

function budgetLine(experiment: Experiment, { budget }: Table): string {
  const { rows, steps, batch, dev, test } = BUDGETS[budget];
  const own = EXPERIMENTS[experiment].cells.some((cell) => cell.rows !== null);
  const count = (value: number): string => value.toLocaleString("en");
  return (
    `Budget \`${budget}\`: ${count(steps)} steps of ${batch} rows${own ? "" : ` from ${count(rows)}`}, ` +
    `the best of 4 evaluations on at most ${dev} dev rows` +
    (experiment === "recipes" ? "." : `, at most ${count(test)} test rows. In brackets: runs.`)
  );
}

function recipeTable(table: Table): string[] {
  const groups = [
    ...(Object.keys(TRIED) as Trained[]).map(recipeCells),
    ...(Object.keys(TRIED_FEW) as Few[]).map(fewRecipeCells),
  ].map((cells) => cells.map((cell) => ({ cell, figure: table.figure(cell, ({ devLoss }) => devLoss) })));
  const rows = groups.flat().map(({ cell, figure }) => {
    const name = `${METHOD_NAMES[cell.method]}${waysOf(cell)}, ${cell.rate}`;
    return [isChosen(cell) ? `**${name}**` : name, textOf(figure, 3)];
  });
  const known = rows.filter(([, loss]) => loss !== "");
  // Only where all of a method's recipes have been tried.
  const others = groups.flatMap((own) => {
    if (own.some(({ figure }) => figure === null)) return [];
    const { cell } = own.reduce((one, other) => (other.figure!.mean < one.figure!.mean ? other : one));
    return isChosen(cell) ? [] : `${METHOD_NAMES[cell.method]}${waysOf(cell)} (${cell.rate})`;
  });
  return [
    ...(known.length === 0 ? [] : [...markdown(["method, learning rate", "loss on dev rows"], known), ""]),
    ...(known.length === rows.length ? [] : [`Not run yet: ${rows.length - known.length} of ${rows.length}.`]),
    ...(others.length === 0 ? [] : [`Better on dev rows than the recipe that is used: ${others.join(", ")}.`]),
  ];
}

const waysOf = ({ rows, init, network }: Cell): string =>
  (rows === null ? "" : ` on ${rows} rows`) +
  (network > 0 ? " through a network" : init === null ? "" : ` from "${init}"`);

function scoreTable(head: string, cells: readonly (readonly [string, Cell])[], table: Table): string[] {
  const rows = cells.map(([name, cell]) => [
    name,
    ...METRICS.map(({ key, digits }) => textOf(table.figure(cell, score(key)), digits)),
  ]);
  return filled([head, ...METRICS.map(({ name }) => name)], rows);
}

function methodTable(table: Table, cellOf: (method: (typeof METHODS)[number]) => Cell): string[] {
  const cells = METHODS.map((one) => {
    const [result] = table.results(cellOf(one));
    const share = result === undefined ? "" : `: ${result.parameters.toLocaleString("en")} values`;
    return [`${one.name}${share}`, cellOf(one)] as const;
  });
  return scoreTable("method", cells, table);
}

const bleuOf = (table: Table, cell: Cell): Figure | null => table.figure(cell, score("bleu"));

function dataTable(table: Table): string[] {
  const rows = SIZES.map((size) => [
    size,
    ...(["prefix", "full"] as const).flatMap((method) =>
      (["bleu", "rougeL"] as const).map((key) => textOf(table.figure(lowDataCell(method, size), score(key)), 1)),
    ),
  ]);
  const head = ["rows", "prefix, BLEU", "prefix, ROUGE-L", "full fine-tuning, BLEU", "full fine-tuning, ROUGE-L"];
  return withPlot(filled(head, rows), "BLEU by rows to train on", "paper-data");
}

function lengthTable(table: Table): string[] {
  const cells = LENGTHS.map((length) => [String(length), lengthCell(length)] as const);
  return withPlot(scoreTable("virtual tokens", cells, table), "BLEU by virtual tokens", "paper-length");
}

function seenTable(table: Table, cellOf: (method: (typeof METHODS)[number]) => Cell): string[] {
  const rows = METHODS.map((one) => [
    one.name,
    ...(["seen", "unseen"] as const).flatMap((rows) =>
      (["bleu", "meteor"] as const).map((key) => textOf(table.figure(cellOf(one), score(key, rows)), 1)),
    ),
  ]);
  return filled(["method", "seen, BLEU", "seen, METEOR", "unseen, BLEU", "unseen, METEOR"], rows);
}

function placeTable(table: Table): string[] {
  const rows = PLACES.map((length) => [
    length,
    textOf(bleuOf(table, lengthCell(length)), 1),
    ...(["prompt", "infix"] as const).map((method) => textOf(bleuOf(table, placeCell(method, length)), 1)),
  ]);
  return filled(["virtual tokens", "prefix, BLEU", "embedding-only, BLEU", "infix, BLEU"], rows);
}

/** Over all budgets: an equality has no spread. */
function servedTable(results: readonly Result[]): string[] {
  const rows = (["prefix", "prompt"] as const).flatMap((method) => {
    const checked = results.filter(({ run, checks }) => run.method === method && checks !== undefined);
    if (checked.length === 0) return [];
    const peft = checked.flatMap(({ devLoss, checks }) =>
      checks!.peft === undefined ? [] : [{ ...checks!.peft, devLoss }],
    );
    const sum = (key: "same" | "of"): number => peft.reduce((total, one) => total + one[key], 0);
    const largest = (values: readonly number[]): string => (values.length === 0 ? "" : Math.max(...values).toFixed(5));
    return [
      [
        METHOD_NAMES[method],
        checked.length,
        largest(checked.map(({ devLoss, checks }) => Math.abs(devLoss - checks!.servedLoss))),
        peft.length,
        largest(peft.map(({ devLoss, loss }) => Math.abs(devLoss - loss))),
        peft.length === 0 ? "" : `${sum("same")} of ${sum("of")}`,
      ],
    ];
  });
  const head = ["kind", "adapters", "served − trained loss, at most", "by PEFT", "PEFT's − trained loss, at most"];
  return rows.length === 0 ? ["Not run yet."] : markdown([...head, "same answers"], rows);
}

const point = (x: number, figure: Figure | null): [number, number | null] => [x, figure?.mean ?? null];

const dataPlot = (table: Table): string =>
  linePlot({
    title: "E2E, few rows",
    x: { label: "rows to train on", log: true },
    y: { label: "BLEU" },
    series: (["prefix", "full"] as const).map((method) => ({
      name: METHOD_NAMES[method],
      points: SIZES.map((rows) => point(rows, bleuOf(table, lowDataCell(method, rows)))),
    })),
  });

const lengthPlot = (table: Table): string =>
  linePlot({
    title: "E2E by the prefix's length",
    x: { label: "virtual tokens", log: true },
    y: { label: "BLEU" },
    series: [{ name: "prefix", points: LENGTHS.map((length) => point(length, bleuOf(table, lengthCell(length)))) }],
  });
