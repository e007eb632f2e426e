/** What the paper found, as pairs of cells, and whether the results agree. */
import { score, type Figure, type Table } from "./cells.ts";
import {
  INITS,
  initCell,
  lengthCell,
  lowDataCell,
  methodCell,
  METHODS,
  PLACES,
  placeCell,
  SIZES,
  unseenCell,
} from "./plan.ts";
import { LENGTH, type Cell, type Experiment } from "./plan.ts";
import type { Result } from "./results.ts";

type Value = (result: Result) => number | undefined;
/** "above": the first is better. "not below": as good, or better. */
type Order = "above" | "not below";

export interface Claim {
  readonly experiment: Experiment;
  readonly text: string;
  readonly order: Order;
  readonly first: Cell;
  readonly second: Cell;
  readonly value: Value;
}

const bleu = score("bleu");
const [, prefixSmall, prefixLarge, adapterSmall, adapterLarge, top, full] = METHODS as unknown as [
  Method,
  Method,
  Method,
  Method,
  Method,
  Method,
  Method,
];
type Method = (typeof METHODS)[number];

const init = (name: string): Cell => initCell(INITS.find((one) => one.name.startsWith(name))!.text);

function methodClaims(): Claim[] {
  const pairs: [Method, Order, Method][] = [
    [prefixSmall, "above", adapterSmall],
    [prefixSmall, "above", top],
    [prefixSmall, "not below", full],
    [prefixLarge, "not below", adapterLarge],
  ];
  return (["e2e", "sgd_nlg"] as const).flatMap((task) =>
    pairs.map(([a, order, b]) => ({
      experiment: "methods" as const,
      text: `${task}: ${a.name} ${order} ${b.name}`,
      order,
      first: methodCell(a, task),
      second: methodCell(b, task),
      value: bleu,
    })),
  );
}

function unseenClaims(): Claim[] {
  const value = score("bleu", "unseen");
  return [adapterLarge, full].flatMap((other) => [
    {
      experiment: "methods" as const,
      text: `sgd_nlg, unseen domains: ${prefixLarge.name} not below ${other.name}`,
      order: "not below" as const,
      first: methodCell(prefixLarge, "sgd_nlg"),
      second: methodCell(other, "sgd_nlg"),
      value,
    },
    {
      experiment: "unseen" as const,
      text: `e2e, restaurants unseen: ${prefixLarge.name} not below ${other.name}`,
      order: "not below" as const,
      first: unseenCell(prefixLarge),
      second: unseenCell(other),
      value,
    },
  ]);
}

const claim = (experiment: Experiment, text: string, order: Order, first: Cell, second: Cell): Claim => ({
  experiment,
  text,
  order,
  first,
  second,
  value: bleu,
});

export const CLAIMS: readonly Claim[] = [
  ...methodClaims(),
  ...SIZES.map((rows) =>
    claim("data", `${rows} rows: prefix above full`, "above", lowDataCell("prefix", rows), lowDataCell("full", rows)),
  ),
  claim("length", `length ${LENGTH} above 1`, "above", lengthCell(LENGTH), lengthCell(1)),
  claim("length", `length ${LENGTH} not below 200`, "not below", lengthCell(LENGTH), lengthCell(200)),
  claim("init", "relevant words (table-to-text) above random", "above", init("relevant: table"), init("random")),
  claim("init", "irrelevant words (elephant) above random", "above", init("irrelevant: elephant"), init("random")),
  claim("init", "relevant not below irrelevant", "not below", init("relevant: table"), init("irrelevant: elephant")),
  ...unseenClaims(),
  ...PLACES.flatMap((length) => [
    claim("place", `${length}: prefix above embedding-only`, "above", lengthCell(length), placeCell("prompt", length)),
    claim("place", `${length}: prefix above infix`, "above", lengthCell(length), placeCell("infix", length)),
  ]),
];

/**
 * The difference of two means counts if it exceeds the root of the sum of their squared standard deviations. One run
 * has no spread, and decides nothing. Null: not run.
 */
export function verdict(order: Order, first: Figure | null, second: Figure | null): string | null {
  if (first === null || second === null) return null;
  const difference = first.mean - second.mean;
  const sign = `${difference >= 0 ? "+" : "−"}${Math.abs(difference).toFixed(1)}`;
  if (first.deviation === null || second.deviation === null) return `undecided, one run a side (${sign})`;
  const spread = Math.hypot(first.deviation, second.deviation);
  const text = `${sign}, spread ${spread.toFixed(1)}`;
  if (Math.abs(difference) <= spread)
    return `${order === "above" ? "undecided" : "holds"}: within the spread (${text})`;
  return `${difference > 0 ? "holds" : "does not hold"} (${text})`;
}

/** A table's rows: the claim, its verdict. `tables` has the table of an experiment. */
export const verdicts = (
  claims: readonly Claim[],
  tables: (experiment: Experiment) => Table,
): [claim: string, verdict: string | null][] =>
  claims.map(({ experiment, text, order, first, second, value }) => {
    const table = tables(experiment);
    return [text, verdict(order, table.figure(first, value), table.figure(second, value))];
  });
