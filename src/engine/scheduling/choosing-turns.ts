/** What chooses after a run of the model: a sequence its next token, or a beam search all of its beams'. */
export interface Chooser {
  readonly tenant: string;
  /** Rows of the run that it chooses from. */
  readonly rows: number;
  /** Milliseconds that choosing is expected to take; 0: not known yet. */
  readonly choosingTime: number;
  /** Steps in which it has been left out since it last chose. */
  leftOut: number;
}

/**
 * Milliseconds a row that are never heavy. Where a device's run of hundreds of rows takes a few milliseconds, every ordinary choice takes longer than
 * its row, and putting them off would cost everybody more than it spares anybody.
 */
const ORDINARY_MS = 0.2;
const NOBODY: ReadonlySet<Chooser> = new Set();

/**
 * Who of a batch must not choose in this step; a run took `run` milliseconds, and takes `row` a row (null: not known).
 *
 * Choices are made one after the other and every stream waits for all of them. So the heavy ones, which each take longer than their rows of the run did
 * (and than ORDINARY_MS), take no longer together than the whole run, or are a single one. Tenants take turns, and of a tenant those who have been left out most
 * often go first. Nobody is left out while a single tenant decodes: nobody else waits.
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
  // Most steps.
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

/** One of each tenant, then the next one of each. */
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
