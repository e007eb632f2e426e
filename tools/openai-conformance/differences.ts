/** What differs, beside what differences.yaml says about it. */
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { compareOperations, type Difference, type Operations, type What } from "./compare.ts";
import { operationsOf, type Excerpt } from "./description.ts";

/** One reason, and what it explains: places (separated by commas), the kind of difference, names. */
interface Explained {
  readonly why: string;
  readonly at: string | readonly string[];
  readonly what: What;
  readonly names: readonly string[];
}

const keyOf = ({ at, what, name }: Difference): string => `${at} | ${what} | ${name}`;

/** One line for each difference that has no reason, and for each reason without a difference. */
export function unexplained(theirs: Excerpt, ours: Operations, explained = readExplained()): string[] {
  const found = new Set(
    [
      ...compareOperations(operationsOf(theirs), ours),
      ...theirs.others.map((name): Difference => ({ at: "routes", what: "left out", name })),
    ].map(keyOf),
  );
  const known = new Set(
    explained.flatMap(({ at, what, names }) =>
      [at].flat().flatMap((place) => names.map((name) => keyOf({ at: place, what, name }))),
    ),
  );
  return [
    ...[...found].filter((one) => !known.has(one)).map((one) => `not explained: ${one}`),
    ...[...known].filter((one) => !found.has(one)).map((one) => `no longer so: ${one}`),
  ];
}

export function readExplained(): Explained[] {
  return parse(readFileSync(new URL("./differences.yaml", import.meta.url), "utf8")) as Explained[];
}
