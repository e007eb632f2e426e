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

/** Whether choosing takes longer than the run itself does for its rows; `row`: milliseconds of a run, a row. */
export const isHeavy = ({ rows, choosingTime }: Pick<Chooser, "rows" | "choosingTime">, row: number): boolean => choosingTime > row * rows;

/**
 * Who must not choose in this step. Choices are made one after the other and every stream waits for all of them, so the heavy ones of a step take
 * no longer together than its run of `run` milliseconds did, or are a single one; tenants take turns, and of a tenant those who have been
 * left out most often go first. Nobody is left out while a single tenant decodes: nobody else waits.
 *
 * Who is left out is fed the same token at the same position again in the next step, which writes the same keys and values and gives the
 * same scores: a row's numbers do not depend on the others (docs/architecture.md, isolation).
 */
export function leftOutOf<C extends Chooser>(choosers: readonly C[], run: number, row: number): ReadonlySet<C> {
  const heavy = choosers.filter((chooser) => isHeavy(chooser, row));
  if (heavy.length === 0 || choosers.every(({ tenant }) => tenant === choosers[0]!.tenant)) return new Set();
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
function* inTurns<C extends Chooser>(heavy: readonly C[]): Generator<C, void> {
  const byTenant = new Map<string, C[]>();
  for (const chooser of [...heavy].sort((a, b) => b.leftOut - a.leftOut)) {
    const others = byTenant.get(chooser.tenant);
    if (others === undefined) byTenant.set(chooser.tenant, [chooser]);
    else others.push(chooser);
  }
  const longest = Math.max(...[...byTenant.values()].map(({ length }) => length));
  for (let turn = 0; turn < longest; turn++) for (const own of byTenant.values()) if (turn < own.length) yield own[turn]!;
}
