/** What chooses tokens after a run of the model: a sequence its own, a beam search those of all its beams. */
export interface Chooser {
  readonly tenant: string;
  /** Rows of the run that it uses. */
  readonly rows: number;
  /** Milliseconds that choosing is expected to take; 0: not known yet. */
  readonly choosingTime: number;
  /** Steps in which it was left out since it last chose. */
  leftOut: number;
}

/**
 * Choosing for less than this many milliseconds per row is never heavy. Where a device runs hundreds of rows in a few milliseconds, every
 * ordinary choice takes longer than its row, and postponing it would cost everybody more than it spares anybody.
 */
const ORDINARY_MS = 0.2;
const NOBODY: ReadonlySet<Chooser> = new Set();

/**
 * Which choosers of a batch are left out in this step. The run took `run` milliseconds, or `row` per row (null: not known).
 *
 * Choices are made one after another, and every stream waits for all of them. So in each step the heavy ones, which take longer than their rows
 * of the run (and than ORDINARY_MS), together take no longer than the whole run, unless there is only one. Tenants take turns; within a tenant,
 * those left out most often go first. While only one tenant decodes nobody is left out, since nobody else waits.
 *
 * Who is left out is fed the same token at the same position again in the next step, which writes the same keys and values and gives the
 * same scores: a row's numbers do not depend on the others (docs/decisions/003-bit-isolation.md).
 */
export function leftOutOf(
  batch: readonly { readonly chooser: Chooser }[],
  run: number,
  row: number | null,
): ReadonlySet<Chooser> {
  if (row === null) return NOBODY;
  const isHeavy = ({ rows, choosingTime }: Chooser): boolean => choosingTime > rows * Math.max(row, ORDINARY_MS);
  // The common case.
  if (
    !batch.some(({ chooser }) => isHeavy(chooser)) ||
    batch.every(({ chooser }) => chooser.tenant === batch[0]!.chooser.tenant)
  )
    return NOBODY;
  const heavy = [...new Set(batch.map(({ chooser }) => chooser))].filter(isHeavy);
  const left = new Set(heavy);
  let time = run;
  for (const chooser of inTurns(heavy)) {
    if (left.size < heavy.length && chooser.choosingTime > time) break;
    time -= chooser.choosingTime;
    left.delete(chooser);
  }
  for (const chooser of heavy) chooser.leftOut = left.has(chooser) ? chooser.leftOut + 1 : 0;
  return left;
}

/** One of each tenant, then the next of each, and so on. */
function* inTurns(heavy: readonly Chooser[]): Generator<Chooser, void> {
  const byTenant = new Map<string, Chooser[]>();
  for (const chooser of [...heavy].sort((a, b) => b.leftOut - a.leftOut)) {
    const others = byTenant.get(chooser.tenant);
    if (others === undefined) byTenant.set(chooser.tenant, [chooser]);
    else others.push(chooser);
  }
  const longest = Math.max(...[...byTenant.values()].map(({ length }) => length));
  for (let turn = 0; turn < longest; turn++)
    for (const own of byTenant.values()) if (turn < own.length) yield own[turn]!;
}
