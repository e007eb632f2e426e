/** What must be copied so that every child has a row of its own with its parent's contents. */
export interface ForkPlan {
  /** `rows[child]`: the row that is the child's from now on. */
  readonly rows: readonly number[];
  /** No row is both read and written, so they may be done in any order. */
  readonly copies: readonly { readonly from: number; readonly to: number }[];
}

/**
 * Beams fork and die: child c continues what lies in row `parents[c]`, of rows `[0, count)`. A parent's first child
 * takes over its row; each further child gets a copy in the row of a parent without children. So as few rows are copied
 * as can be, and there are no cycles to resolve: a row that is written was nobody's parent. There may be fewer children
 * than rows, not more.
 *
 *     parents [0, 0, 3, 0]      rows  0: child 0    1: copy for child 1    2: copy for child 3    3: child 2
 */
export function planForks(parents: readonly number[], count: number): ForkPlan {
  if (parents.length > count) throw new RangeError(`${parents.length} children have ${count} rows`);
  const kept = new Set(parents);
  const free = Array.from({ length: count }, (_, row) => row).filter((row) => !kept.has(row));
  const taken = new Set<number>();
  const copies: { from: number; to: number }[] = [];
  const rows = parents.map((parent) => {
    if (!taken.has(parent)) {
      taken.add(parent);
      return parent;
    }
    const to = free.shift() as number;
    copies.push({ from: parent, to });
    return to;
  });
  return { rows, copies };
}
