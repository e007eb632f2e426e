import type { UserStore } from "../users/store.ts";
import type { UsageRow } from "../users/types.ts";
import { toCounts, toUsageSums, usageRowName } from "../users/usage-counts.ts";
import type { UsageRecord } from "./records.ts";

const PAGE = 500;

/**
 * Raises each of a user's counters to the export's, never lowers one: what an earlier import added, or the same server
 * has counted since, is not counted twice. Returns the numbers of rows that it changed and left.
 */
export async function importUsage(
  users: Pick<UserStore, "usage" | "addUsage">,
  { user, rows }: UsageRecord,
): Promise<{ added: number; present: number }> {
  const missing: UsageRow[] = [];
  const there = await countersOf(users, user, rows);
  for (const { prefix, day, counts } of rows) {
    const known = there.get(usageRowName({ prefix, day }));
    const rest = counts.map((count, i) => Math.max(0, count - (known?.[i] ?? 0)));
    if (rest.some((count) => count > 0)) missing.push({ user, prefix, day, ...toUsageSums(rest) });
  }
  if (missing.length > 0) await users.addUsage(missing);
  return { added: missing.length, present: rows.length - missing.length };
}

/** The store's counters of these rows. */
async function countersOf(
  users: Pick<UserStore, "usage">,
  user: string,
  rows: UsageRecord["rows"],
): Promise<Map<string, readonly number[]>> {
  const names = new Set(rows.map(usageRowName));
  const days = rows.map(({ day }) => day).sort();
  const [from, to] = [days[0], days.at(-1)];
  const found = new Map<string, readonly number[]>();
  if (from === undefined || to === undefined) return found;
  for (let after: string | undefined; ; ) {
    const page = await users.usage(user, { from, to, limit: PAGE, ...(after === undefined ? {} : { after }) });
    for (const row of page) if (names.has(usageRowName(row))) found.set(usageRowName(row), toCounts(row));
    if (page.length < PAGE) return found;
    after = usageRowName(page.at(-1)!);
  }
}
