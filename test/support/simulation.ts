/** Simulates the scheduler on a clock of steps, without a model: executes plans and nothing else. */
import {
  EQUAL_SHARES,
  OUTPUT_PRICE,
  PROMPT_PRICE,
  fairShare,
  type TenantShares,
} from "../../src/engine/scheduling/fair-share.ts";
import { heldRows } from "../../src/engine/scheduling/admission.ts";
import { planPrefill, type QueuePolicy, type Schedulable } from "../../src/engine/scheduling/plan.ts";
import { tokenLimits } from "./plans.ts";
import { ServiceCounters } from "../../src/engine/scheduling/counters.ts";

export interface Job extends Schedulable {
  fed: number;
  passedOver: number;
  /** Tokens per choice. */
  readonly generate: number;
  readonly arrived: number;
  /** Step of its first token. */
  first: number | null;
  ended: number | null;
  left: number;
}

export class Simulation {
  readonly slots: number;
  readonly chunkTokens: number;
  readonly shares: TenantShares;
  readonly counters: ServiceCounters;
  readonly queue: Job[] = [];
  /** One entry per row that decodes. */
  readonly rows: { readonly job: Job; left: number }[] = [];
  readonly jobs: Job[] = [];
  /** Service received per tenant. */
  readonly service = new Map<string, number>();
  readonly admitted: Job[] = [];
  now = 0;
  #prefilling: Job | null = null;
  readonly #policy: QueuePolicy | null;

  /** Default policy: fair shares. */
  constructor(given: { slots: number; chunkTokens: number; shares?: TenantShares; policy?: QueuePolicy }) {
    this.slots = given.slots;
    this.chunkTokens = given.chunkTokens;
    this.shares = given.shares ?? EQUAL_SHARES;
    this.counters = new ServiceCounters(this.shares);
    this.#policy = given.policy ?? null;
  }

  submit(tenant: string, promptLength: number, generate: number, n = 1): Job {
    const job: Job = {
      tenant,
      promptLength,
      generate,
      rows: n,
      fed: 0,
      passedOver: 0,
      arrived: this.now,
      first: null,
      ended: null,
      left: n,
    };
    this.counters.arrive(tenant, this.queue);
    this.queue.push(job);
    this.jobs.push(job);
    return job;
  }

  /** The client left: the job holds nothing from the next step on. */
  cancel(job: Job): void {
    const at = this.queue.indexOf(job);
    if (at >= 0) this.queue.splice(at, 1);
    if (this.#prefilling === job) this.#prefilling = null;
    for (const row of this.rows) if (row.job === job) row.left = 0;
    this.#drop();
    job.ended ??= this.now;
  }

  /** The job whose prompt is partly fed. */
  get prefilling(): Job | null {
    return this.#prefilling;
  }

  get busy(): boolean {
    return this.queue.length + this.rows.length > 0 || this.#prefilling !== null;
  }

  get total(): number {
    return [...this.service.values()].reduce((sum, service) => sum + service, 0);
  }

  running(): Map<string, number> {
    return heldRows(
      this.rows.map(({ job }) => job.tenant),
      this.#prefilling === null ? [] : [this.#prefilling],
    );
  }

  step(): void {
    const running = this.running();
    this.counters.sweep(this.queue, running);
    const policy = this.#policy ?? fairShare({ counters: this.counters.all, running, shares: this.shares });
    const state = { running: this.rows.length, slots: this.slots, prefilling: this.#prefilling, queue: this.queue };
    for (const { request, from, to, last, passedOver } of planPrefill<Job>(
      state,
      policy,
      tokenLimits(this.chunkTokens, this.chunkTokens),
    )) {
      if (from === 0) {
        for (const passed of passedOver) passed.passedOver++;
        this.queue.splice(this.queue.indexOf(request), 1);
        this.admitted.push(request);
        this.counters.admit(request.tenant, request.promptLength);
        this.#serve(request.tenant, PROMPT_PRICE * request.promptLength);
      }
      request.fed = to;
      this.#prefilling = last ? null : request;
      if (!last) continue;
      for (let choice = 0; choice < request.rows; choice++) this.rows.push({ job: request, left: request.generate });
      for (const row of this.rows.slice(-request.rows)) this.#token(row);
    }
    this.#drop();
    for (const row of this.rows) this.#token(row);
    this.#drop();
    this.now++;
  }

  #token(row: { readonly job: Job; left: number }): void {
    const { job } = row;
    job.first ??= this.now;
    this.counters.generated(job.tenant, 1);
    this.#serve(job.tenant, OUTPUT_PRICE);
    if (--row.left === 0 && --job.left === 0) job.ended = this.now;
  }

  #drop(): void {
    for (let row = this.rows.length - 1; row >= 0; row--) if (this.rows[row]!.left === 0) this.rows.splice(row, 1);
  }

  #serve(tenant: string, service: number): void {
    this.service.set(tenant, (this.service.get(tenant) ?? 0) + service);
  }
}

/** Jain, Chiu, Hawe (1984): 1 when all are equal, 1/n when one has everything. */
export function jainIndex(values: readonly number[]): number {
  const sum = values.reduce((a, b) => a + b, 0);
  return sum ** 2 / (values.length * values.reduce((a, b) => a + b * b, 0));
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!;
}
