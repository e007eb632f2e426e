/** Usage by day and by prefix, over the last 31 days (UTC). */
import type { Api } from "./api.ts";
import { count, plural } from "./format.ts";

export interface UsageRow {
  /** YYYY-MM-DD */
  readonly day: string;
  /** null: the bare base model. */
  readonly prefix: string | null;
  readonly requests: number;
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
}

const DAYS = 31;
const DAY_MS = 86_400_000;
/** Prefixes that are listed. */
const LISTED = 20;

/** The days, oldest first, today last. */
export const lastDays = (now = Date.now()): string[] =>
  Array.from({ length: DAYS }, (_, i) => new Date(now - (DAYS - 1 - i) * DAY_MS).toISOString().slice(0, 10));

/** @param path a route of usage: one's own, or a user's */
export const readUsage = (api: Api, path: string): Promise<UsageRow[]> =>
  api.list<UsageRow>(`${path}?from=${lastDays()[0]}`, "usage", 20_000);

export const tokensOf = ({ prompt_tokens, completion_tokens }: UsageRow): number => prompt_tokens + completion_tokens;
export const requestsOf = ({ requests }: UsageRow): number => requests;

interface UsageBarsProps {
  readonly rows: readonly UsageRow[];
  readonly title: string;
  readonly value: (row: UsageRow) => number;
  /** "token" */
  readonly unit: string;
}

/** One bar a day. */
export function UsageBars({ rows, title, value, unit }: UsageBarsProps) {
  const days = lastDays();
  const sums = new Map(days.map((day) => [day, 0]));
  for (const row of rows) sums.set(row.day, (sums.get(row.day) ?? 0) + value(row));
  const values = days.map((day) => sums.get(day)!);
  const most = Math.max(...values);
  const all = plural(
    values.reduce((sum, one) => sum + one, 0),
    unit,
  );
  const peak = most === 0 ? "" : `, at most ${count(most)} on ${days[values.indexOf(most)]}`;
  return (
    <section class="stack" aria-label={title}>
      <div class="row">
        <h3>{title}</h3>
        <span class="small soft end">{all} in 31 days</span>
      </div>
      <div class="bars" role="img" aria-label={`${title}: ${all} in 31 days${peak}`}>
        {values.map((one, i) => (
          <i
            key={days[i]}
            title={`${days[i]}: ${plural(one, unit)}`}
            style={{ height: one === 0 ? "1px" : `${Math.max(4, (100 * one) / most)}%` }}
          />
        ))}
      </div>
    </section>
  );
}

/** What each prefix was asked, the most used first. */
export function UsageByPrefix({ rows }: { rows: readonly UsageRow[] }) {
  const sums = new Map<string | null, { requests: number; tokens: number }>();
  for (const row of rows) {
    const { requests, tokens } = sums.get(row.prefix) ?? { requests: 0, tokens: 0 };
    sums.set(row.prefix, { requests: requests + row.requests, tokens: tokens + tokensOf(row) });
  }
  if (sums.size === 0) return null;
  const sorted = [...sums].sort(([, a], [, b]) => b.tokens - a.tokens);
  return (
    <div class="scroll">
      <table class="flush">
        <thead>
          <tr>
            <th scope="col">Prefix</th>
            <th scope="col" class="num">
              Requests
            </th>
            <th scope="col" class="num">
              Tokens
            </th>
          </tr>
        </thead>
        <tbody>
          {sorted.slice(0, LISTED).map(([prefix, { requests, tokens }]) => (
            <tr key={prefix}>
              <th scope="row" class="mono">
                {prefix ?? "base"}
              </th>
              <td class="num">{count(requests)}</td>
              <td class="num">{count(tokens)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      {sorted.length > LISTED && (
        <p class="small faint">and {plural(sorted.length - LISTED, "other prefix", "other prefixes")}</p>
      )}
    </div>
  );
}
