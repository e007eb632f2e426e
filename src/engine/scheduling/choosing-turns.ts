/** Chooses tokens after a run of the model: a sequence its own token, a beam search those of all its beams. */
export interface Chooser {
  readonly tenant: string;
  /** Number of rows of the run that it uses. */
  readonly rows: number;
  /** Expected milliseconds for choosing; 0: not known yet. */
  readonly choosingTime: number;
  /** Steps left out since it last chose. */
  leftOut: number;
}

/**
 * Choosing is never heavy below this many milliseconds per row. If a device runs hundreds of rows in a few
 * milliseconds, every ordinary choice takes longer than its row, and postponing it costs more than it saves.
 */
const ORDINARY_MS = 0.2;
const NOBODY: ReadonlySet<Chooser> = new Set();

/**
 * Returns the choosers of a batch to leave out in this step. The run took `run` milliseconds, `row` per row (null: not
 * known).
 *
 * Choices are made one after another, and every stream waits for all of them. A choice is heavy if it takes longer than
 * its rows of the run and than ORDINARY_MS. In each step the heavy choices together take no longer than the whole run,
 * but at least one is made. Tenants take turns; within a tenant, those left out most often go first. With only one
 * tenant decoding, none are left out, since no other tenant waits.
 *
 * A chooser left out is fed the same token at the same position again in the next step. That writes the same keys and
 * values and gives the same scores, because rows do not affect each other (docs/decisions/003-bit-isolation.md).
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

/** Round-robin over tenants. */
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
