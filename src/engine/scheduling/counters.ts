import { OUTPUT_PRICE, PROMPT_PRICE, type TenantShares } from "./fair-share.ts";

interface OfTenant {
  readonly tenant: string;
}

/** With fewer entries, a sweep is not worth it. */
const SWEEP_FROM = 256;

/**
 * The virtual token counters of all tenants (see fair-share.ts), in tokens by weight.
 *
 * A tenant that begins to wait is lifted to the smallest counter among the waiting, or, if nobody waits, to that of the
 * tenant admitted last: idle time earns no credit. As in the paper, tenants that only run do not count here: one that
 * runs little and never waits stays far below the others, and a newcomer would inherit its low counter.
 *
 * This level only rises: counters grow, and nobody joins below it. A tenant that neither waits nor runs and is not
 * above the level would be lifted at least to it on its return, whatever its counter was, so the counter can be
 * dropped. Few are above the level: each has had at most one batch of service more than it, and it rises with all
 * service.
 */
export class ServiceCounters {
  readonly #shares: TenantShares;
  readonly #counters = new Map<string, number>();
  #level = 0;
  #lastAdmitted: string | null = null;
  #sweepAt = SWEEP_FROM;

  constructor(shares: TenantShares) {
    this.#shares = shares;
  }

  /** Service by weight of each tenant. */
  get all(): ReadonlyMap<string, number> {
    return this.#counters;
  }

  /** Call before a request of `tenant` begins to wait. */
  arrive(tenant: string, waiting: Iterable<OfTenant>): void {
    const tenants = new Set<string>();
    for (const request of waiting) tenants.add(request.tenant);
    if (tenants.has(tenant)) return;
    this.#raiseLevel(tenants);
    this.#counters.set(tenant, Math.max(this.#of(tenant), this.#level));
  }

  /** The smallest counter among the tenants of these requests; Infinity if there are none. */
  least(requests: Iterable<OfTenant>): number {
    let least = Infinity;
    for (const { tenant } of requests) least = Math.min(least, this.#of(tenant));
    return least;
  }

  /** Charges a request's prompt, or a chunk of a fold. */
  admit(tenant: string, promptTokens: number): void {
    this.#charge(tenant, PROMPT_PRICE * promptTokens);
    this.#lastAdmitted = tenant;
  }

  generated(tenant: string, tokens: number): void {
    this.#charge(tenant, OUTPUT_PRICE * tokens);
  }

  /** Drops counters that no longer make a difference. Cheap if there is little to drop. */
  sweep(waiting: Iterable<OfTenant>, running: ReadonlyMap<string, number>): void {
    if (this.#counters.size < this.#sweepAt) return;
    const tenants = new Set<string>();
    for (const request of waiting) tenants.add(request.tenant);
    this.#raiseLevel(tenants);
    for (const [tenant, counter] of this.#counters) {
      if (counter <= this.#level && !tenants.has(tenant) && !running.has(tenant) && tenant !== this.#lastAdmitted)
        this.#counters.delete(tenant);
    }
    this.#sweepAt = Math.max(SWEEP_FROM, 2 * this.#counters.size);
  }

  #raiseLevel(waiting: ReadonlySet<string>): void {
    let level = Infinity;
    for (const tenant of waiting) level = Math.min(level, this.#of(tenant));
    if (waiting.size === 0) level = this.#lastAdmitted === null ? 0 : this.#of(this.#lastAdmitted);
    this.#level = Math.max(this.#level, level);
  }

  #charge(tenant: string, service: number): void {
    this.#counters.set(tenant, this.#of(tenant) + service / this.#shares.of(tenant).weight);
  }

  #of(tenant: string): number {
    return this.#counters.get(tenant) ?? 0;
  }
}
