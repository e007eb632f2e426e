/** Scheduler, fair shares and engine under any sequence of arrivals, departures and changes of shares. */
import { setImmediate as turn } from "node:timers/promises";
import fc from "fast-check";
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import type { TenantShare } from "../../src/engine/scheduling/fair-share.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import { MAX_PASSED_OVER } from "../../src/engine/scheduling/plan.ts";
import { PrefixdError } from "../../src/errors.ts";
import { fakePrefix, FakeRunner, oracle } from "../support/fake-runner.ts";
import { engineRequest, GREEDY } from "../support/model.ts";
import { CountingObserver, idle, Recording } from "../support/recording.ts";
import { Simulation, type Job } from "../support/simulation.ts";
import { holds } from "./support/runs.ts";

const TENANTS = ["a", "b", "c"];
const tenant = fc.constantFrom(...TENANTS);
const share: fc.Arbitrary<TenantShare> = fc.record({
  weight: fc.constantFrom(0.25, 1, 1, 3),
  maxRunning: fc.option(fc.integer({ min: 1, max: 6 })),
  maxQueued: fc.option(fc.nat({ max: 6 })),
});
const shares = fc.tuple(share, share, share);
const machine = fc.record({ slots: fc.integer({ min: 1, max: 9 }), chunkTokens: fc.integer({ min: 1, max: 24 }) });
const NO_SHARE: TenantShare = { weight: 1, maxRunning: null, maxQueued: null };

type Event =
  | {
      readonly do: "arrive";
      readonly tenant: string;
      readonly prompt: number;
      readonly generate: number;
      readonly n: number;
      readonly prefix: number;
    }
  | { readonly do: "leave"; readonly which: number; readonly reason: "cancelled" | "removed" }
  | { readonly do: "share"; readonly tenant: string; readonly share: TenantShare }
  | { readonly do: "pass"; readonly steps: number };

const arrive: fc.Arbitrary<Event> = fc.record({
  do: fc.constant("arrive" as const),
  tenant,
  prompt: fc.integer({ min: 1, max: 50 }),
  generate: fc.integer({ min: 1, max: 12 }),
  n: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 9 })),
  prefix: fc.nat({ max: 20 }),
});
const leave: fc.Arbitrary<Event> = fc.record({
  do: fc.constant("leave" as const),
  which: fc.nat(),
  reason: fc.constantFrom("cancelled" as const, "removed" as const),
});
const reshare: fc.Arbitrary<Event> = fc.record({ do: fc.constant("share" as const), tenant, share });
const pass: fc.Arbitrary<Event> = fc.record({
  do: fc.constant("pass" as const),
  steps: fc.integer({ min: 1, max: 6 }),
});
const history = fc.array(
  fc.oneof(
    { weight: 6, arbitrary: arrive },
    { weight: 2, arbitrary: leave },
    { weight: 1, arbitrary: reshare },
    { weight: 4, arbitrary: pass },
  ),
  { minLength: 1, maxLength: 60 },
);

/** Rows that nobody holds. */
const freeRows = (sim: Simulation): number =>
  sim.slots - [...sim.running().values()].reduce((sum, rows) => sum + rows, 0);

/** Whether a job of the queue could be given rows at once: it fits, and nothing before it waits for its tenant's limit. */
function couldRun(sim: Simulation, job: Job): boolean {
  const own = sim.running().get(job.tenant) ?? 0;
  const { maxRunning } = sim.shares.of(job.tenant);
  const upToIt = sim.queue.slice(0, sim.queue.indexOf(job) + 1).filter((other) => other.tenant === job.tenant);
  return (
    job.rows <= freeRows(sim) &&
    upToIt.every(({ rows }) => maxRunning === null || own === 0 || own + rows <= maxRunning)
  );
}

t.test("no row is given twice or left idle, limits hold, and everybody ends", async (t) => {
  await holds(
    t,
    500,
    fc.property(machine, shares, history, (given, start, events) => {
      const of = new Map(TENANTS.map((name, i) => [name, start[i]!]));
      const sim = new Simulation({ ...given, shares: { of: (name) => of.get(name) ?? NO_SHARE } });
      let reshared = false;
      const step = (): void => {
        const admitted = sim.admitted.length;
        const able = sim.queue.filter((job) => couldRun(sim, job));
        const blocked = sim.queue.some((job) => job.passedOver >= MAX_PASSED_OVER);
        const open = sim.prefilling;
        sim.step();
        if (freeRows(sim) < 0) throw new Error("more rows are held than there are");
        if (able.length > 0 && !blocked && open === null && sim.admitted.length === admitted)
          throw new Error("somebody could have been admitted");
        for (const [name, rows] of sim.running()) {
          const { maxRunning } = of.get(name)!;
          const alone = sim.rows
            .filter(({ job }) => job.tenant === name)
            .every(({ job }, _, [first]) => job === first?.job);
          if (!reshared && maxRunning !== null && rows > maxRunning && !alone)
            throw new Error(`${name} holds ${rows} rows of ${maxRunning}`);
        }
      };
      for (const event of events) {
        if (event.do === "arrive")
          sim.submit(event.tenant, event.prompt, event.generate, Math.min(event.n, given.slots));
        if (event.do === "leave" && sim.jobs.length > 0) sim.cancel(sim.jobs[event.which % sim.jobs.length]!);
        if (event.do === "share") {
          of.set(event.tenant, event.share);
          reshared = true;
        }
        if (event.do === "pass") for (let i = 0; i < event.steps; i++) step();
      }
      // Even one after the other they would take no longer.
      const work = sim.jobs
        .filter((job) => job.ended === null)
        .reduce((steps, job) => steps + Math.ceil(job.promptLength / given.chunkTokens) + job.generate + 1, 0);
      for (let i = 0; i <= work && sim.busy; i++) step();
      return !sim.busy && sim.rows.length === 0 && sim.jobs.every((job) => job.ended !== null);
    }),
  );
});

const requestOf = (event: Extract<Event, { do: "arrive" }>, slots: number, seed: number): EngineRequest =>
  engineRequest({
    tenant: event.tenant,
    promptIds: Int32Array.from({ length: event.prompt }, (_, i) => (i * 7 + seed) % 96),
    prefix: event.prefix === 0 ? null : fakePrefix(event.prefix, event.prefix),
    n: Math.min(event.n, slots),
    maxNewTokens: event.generate,
    sampling: event.n > 1 ? { ...GREEDY, doSample: true } : GREEDY,
    seed,
  });

t.test("the engine gives everybody the tokens that they get alone, and holds nothing afterwards", async (t) => {
  await holds(
    t,
    250,
    fc.asyncProperty(
      machine,
      shares,
      history,
      fc.nat({ max: 8 }),
      async ({ slots, chunkTokens }, start, events, maxQueue) => {
        const of = new Map(TENANTS.map((name, i) => [name, start[i]!]));
        const runner = new FakeRunner(slots);
        const observer = new CountingObserver();
        const engine = new Engine({
          runner,
          maxQueue,
          prefillChunk: chunkTokens,
          observer,
          now: () => 0,
          shares: { of: (name) => of.get(name) ?? NO_SHARE },
        });
        const taken: { request: EngineRequest; recording: Recording; left: boolean }[] = [];
        for (const [seed, event] of events.entries()) {
          if (event.do === "arrive") {
            const request = requestOf(event, slots, seed);
            try {
              taken.push({ request, recording: new Recording(engine, request), left: false });
            } catch (error) {
              if (
                !(
                  error instanceof PrefixdError &&
                  ["queue_full", "user_queue_full", "invalid_parameter"].includes(error.code)
                )
              )
                throw error;
            }
          }
          if (event.do === "leave" && taken.length > 0) {
            const one = taken[event.which % taken.length]!;
            one.left = true;
            one.recording.handle.cancel(event.reason);
          }
          if (event.do === "share") of.set(event.tenant, event.share);
          if (event.do === "pass") for (let i = 0; i < event.steps; i++) await turn();
          if (engine.stats().running > slots) throw new Error("more rows are held than there are");
        }
        await idle(engine);
        for (const { request, recording, left } of taken) {
          if (recording.violations.length > 0) throw new Error(recording.violations.join());
          if (recording.error !== null) throw recording.error;
          recording.ids.forEach((ids, choice) => {
            const alone = oracle(request, choice);
            const whole = recording.reasons[choice] === "length";
            if (
              !(whole || left) ||
              ids.join() !== alone.slice(0, ids.length).join() ||
              (whole && ids.length !== alone.length)
            )
              throw new Error(`choice ${choice}: ${ids.join()}, alone ${alone.join()}`);
          });
        }
        const sequences = taken.reduce((sum, { request }) => sum + request.n, 0);
        if (runner.misuses.length > 0) throw new Error(runner.misuses.join());
        return (
          observer.ended === sequences &&
          observer.steps.every(({ phase, rows, tokens }) =>
            phase === "prefill" ? tokens <= chunkTokens : rows <= slots,
          )
        );
      },
    ),
  );
});
