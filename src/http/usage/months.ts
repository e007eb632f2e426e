import { addCounts, compare, toCounts, toUsageRow, usageRowName } from "../../users/usage-counts.ts";
import type { UsageRow } from "../../users/types.ts";

/** First day of the month of a month's row name, `2026-01/=intent`. */
export const firstDayOf = (name: string): string => `${name.slice(0, 7)}-01`;

/**
 * Sums a user's rows by calendar month and prefix. `rows` are in the stores' order, and so is what comes: rows whose
 * `day` is a month, such as 2026-01. Holds one month's sums.
 */
export async function* byMonth(rows: AsyncIterable<UsageRow>, after = ""): AsyncGenerator<UsageRow, void> {
  let month = "";
  let user = "";
  const sums = new Map<string, number[]>();
  const ended = (): UsageRow[] =>
    [...sums]
      .filter(([name]) => compare(name, after) > 0)
      .sort(([a], [b]) => compare(a, b))
      .map(([name, counts]) => toUsageRow(user, name, counts));
  for await (const row of rows) {
    const day = row.day.slice(0, 7);
    if (day !== month) {
      yield* ended();
      sums.clear();
      [month, user] = [day, row.user];
    }
    const name = usageRowName({ day, prefix: row.prefix });
    let counts = sums.get(name);
    if (counts === undefined) sums.set(name, (counts = []));
    addCounts(counts, toCounts(row));
  }
  yield* ended();
}
