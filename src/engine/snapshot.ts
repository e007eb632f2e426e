import type { EngineSnapshot, RowState, TenantState } from "../observability/engine-observer.ts";
import type { TenantShares } from "./scheduling/fair-share.ts";
import type { Job, Sequence } from "./sequence.ts";

export interface SnapshotParts {
  readonly sequences: readonly Sequence[];
  readonly prefilling: readonly Job[];
  /** In order of arrival. */
  readonly queue: readonly Job[];
  readonly shares: TenantShares;
  /** The time, by performance.now(). */
  readonly now: number;
}

/** Computed only when it is asked for, in time proportional to rows and queue: steps keep nothing for it. */
export function snapshotOf({ sequences, prefilling, queue, shares, now }: SnapshotParts): EngineSnapshot {
  const rows: RowState[] = [];
  const tenants = new Map<string, { -readonly [K in keyof TenantState]: TenantState[K] }>();
  const tenantOf = (tenant: string) => {
    let found = tenants.get(tenant);
    if (found === undefined) {
      found = { tenant, weight: shares.of(tenant).weight, rows: 0, waiting: 0, oldestMs: null };
      tenants.set(tenant, found);
    }
    return found;
  };
  const add = (job: Job, phase: RowState["phase"], tokens: number, of: number): void => {
    tenantOf(job.tenant).rows++;
    const { prefixId = null } = job.request;
    rows.push({ tenant: job.tenant, prefixId, phase, tokens, of, ageMs: now - job.submittedAt });
  };
  for (const { owner, length, done } of sequences) {
    // The newest token is chosen, but not in the cache yet.
    const generated = length - owner.prefixLength - owner.promptLength + 1;
    if (!done) add(owner, "decode", generated, owner.request.maxNewTokens);
  }
  for (const job of prefilling) for (let row = 0; row < job.rows; row++) add(job, "prefill", job.fed, job.promptLength);
  for (const { tenant, submittedAt } of queue) {
    const waits = tenantOf(tenant);
    waits.waiting++;
    waits.oldestMs ??= now - submittedAt;
  }
  return { rows, tenants: [...tenants.values()] };
}

/** The requests that hold rows. */
export function jobsOf(sequences: readonly Sequence[], prefilling: readonly Job[]): ReadonlySet<Job> {
  const jobs = new Set(prefilling);
  for (const { owner, done } of sequences) if (!done) jobs.add(owner);
  return jobs;
}

/** The prefixes of these requests, each once. */
export function prefixesOf(jobs: Iterable<Job>): string[] {
  const ids = new Set<string>();
  for (const { request } of jobs) if (request.prefixId) ids.add(request.prefixId);
  return [...ids];
}
