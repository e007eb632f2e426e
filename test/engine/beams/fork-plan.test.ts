import t from "tap";
import { planForks } from "../../../src/engine/beams/fork-plan.ts";
import { seededRandom } from "../../support/model.ts";

/** What a naive copy gives: every child with its parent's contents. */
function naive(contents: readonly string[], parents: readonly number[]): string[] {
  return parents.map((parent) => contents[parent]!);
}

t.test("random parents: rows equal those of a naive copy, with the fewest copies", async (t) => {
  const random = seededRandom(3);
  let copied = 0;
  for (let round = 0; round < 5000; round++) {
    const count = 1 + Math.floor(random() * 16);
    const children = Math.floor(random() * (count + 1));
    const parents = Array.from({ length: children }, () => Math.floor(random() * count));
    const contents = Array.from({ length: count }, (_, row) => `round ${round} row ${row}`);
    const expected = naive(contents, parents);
    const { rows, copies } = planForks(parents, count);
    const written = new Set(copies.map(({ to }) => to));
    if (copies.some(({ from }) => written.has(from))) return t.fail(`a row is read and written: ${String(parents)}`);
    for (const { from, to } of copies) contents[to] = contents[from]!;
    if (rows.some((row, child) => contents[row] !== expected[child]))
      return t.fail(`another's contents: ${String(parents)}`);
    if (new Set(rows).size !== children) return t.fail(`two children in one row: ${String(parents)}`);
    if (copies.length !== children - new Set(parents).size)
      return t.fail(`${copies.length} copies: ${String(parents)}`);
    copied += copies.length;
  }
  t.ok(copied > 5000, `${copied} rows were copied`);
});

t.test("a surviving beam stays in its row; a cycle needs no copy", async (t) => {
  t.same(planForks([0, 1, 2], 3), { rows: [0, 1, 2], copies: [] });
  t.same(planForks([1, 2, 0], 3), { rows: [1, 2, 0], copies: [] });
  t.same(planForks([0, 0, 3, 0], 4), {
    rows: [0, 1, 3, 2],
    copies: [
      { from: 0, to: 1 },
      { from: 0, to: 2 },
    ],
  });
  t.same(planForks([2], 4), { rows: [2], copies: [] });
  t.throws(() => planForks([0, 0], 1), RangeError);
});
