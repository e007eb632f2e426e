/** Who waits for a constraint. */
interface Waiting {
  readonly tenant: string;
  /** Steps so far. */
  readonly waited: number;
}

/** Work on constraints in one step: some milliseconds, which every stream waits for. */
export const WORK_PER_STEP = 16_000;

/**
 * Shares a step's work among those that wait for their constraints. Tenants get equal shares; within a tenant, those
 * that have waited longest go first, since only what is finished helps. Calls `work` for each in its turn with the
 * units that it has; it returns those it used.
 */
export function shareWork<W extends Waiting>(
  waiting: readonly W[],
  total: number,
  work: (one: W, units: number) => number,
): void {
  const byTenant = new Map<string, W[]>();
  for (const one of waiting) byTenant.set(one.tenant, [...(byTenant.get(one.tenant) ?? []), one]);
  const share = Math.ceil(total / byTenant.size);
  for (const own of byTenant.values()) {
    let left = share;
    for (const one of own.sort((a, b) => b.waited - a.waited)) {
      if (left <= 0) break;
      left -= work(one, left);
    }
  }
}
