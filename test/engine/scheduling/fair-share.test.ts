import t from "tap";
import { fairShare, type TenantShare, type TenantShares } from "../../../src/engine/scheduling/fair-share.ts";
import { checkRoom } from "../../../src/engine/scheduling/admission.ts";
import type { QueuePolicy, Schedulable } from "../../../src/engine/scheduling/plan.ts";
import { effort } from "../../support/effort.ts";
import { firstFit } from "../../support/plans.ts";
import { ServiceCounters } from "../../../src/engine/scheduling/counters.ts";
import { seededRandom } from "../../support/model.ts";
import { Simulation, jainIndex, quantile } from "../../support/simulation.ts";

const WORKLOADS = effort({ short: 3, long: 30 });
const POLITE = Array.from({ length: 8 }, (_, i) => `polite-${i}`);

/** Shares that a test can change while it runs. */
class Shares implements TenantShares {
  readonly given = new Map<string, Partial<TenantShare>>();
  of(tenant: string): TenantShare {
    return { weight: 1, maxRunning: null, maxQueued: null, ...this.given.get(tenant) };
  }
  set(tenant: string, share: Partial<TenantShare>): this {
    this.given.set(tenant, { ...this.given.get(tenant), ...share });
    return this;
  }
}

/** Keeps `outstanding` requests of each tenant in the server. */
function keepBusy(
  sim: Simulation,
  tenants: readonly string[],
  outstanding: number,
  make: () => { prompt: number; generate: number; n?: number },
): void {
  for (const tenant of tenants) {
    let open = 0;
    for (const job of sim.jobs) if (job.tenant === tenant && job.ended === null) open++;
    for (; open < outstanding; open++) {
      const { prompt, generate, n } = make();
      sim.submit(tenant, prompt, generate, n);
    }
  }
}

/** Time to first token, in steps, of the polite tenants' requests: each keeps two in the server for `steps`. */
function politeWaits(given: {
  abuser: boolean;
  policy?: QueuePolicy;
  shares?: TenantShares;
  steps?: number;
}): number[] {
  const random = seededRandom(5);
  const sim = new Simulation({ slots: 8, chunkTokens: 16, ...given });
  if (given.abuser) for (let i = 0; i < 500; i++) sim.submit("abuser", 16, 40);
  const steps = given.steps ?? 1200;
  while (sim.now < steps) {
    keepBusy(sim, POLITE, 2, () => ({
      prompt: 4 + Math.floor(random() * 8),
      generate: 16 + Math.floor(random() * 16),
    }));
    sim.step();
  }
  return sim.jobs.filter((job) => job.tenant !== "abuser").map((job) => (job.first ?? sim.now) - job.arrived);
}

t.test("beside a tenant with 500 long requests queued, others wait at most twice as long as without it", async (t) => {
  const alone = politeWaits({ abuser: false });
  const fair = politeWaits({ abuser: true });
  const fifo = politeWaits({ abuser: true, policy: firstFit });
  t.comment(
    `p50, p99 in steps: alone ${quantile(alone, 0.5)}, ${quantile(alone, 0.99)}; fair ${quantile(fair, 0.5)}, ${quantile(fair, 0.99)}; first come ${quantile(fifo, 0.5)}, ${quantile(fifo, 0.99)}`,
  );
  t.ok(quantile(fair, 0.99) <= 2 * quantile(alone, 0.99), `${quantile(fair, 0.99)} <= 2 x ${quantile(alone, 0.99)}`);
  t.ok(quantile(fair, 0.5) <= 2 * quantile(alone, 0.5));
  t.ok(quantile(fifo, 0.99) > 10 * quantile(alone, 0.99), "first come, first served lets them starve");
});

t.test("with its sequences limited, a flooding tenant does not take the slots of an idle server either", async (t) => {
  const run = (abuser: boolean): number[] => {
    const sim = new Simulation({ slots: 16, chunkTokens: 16, shares: new Shares().set("abuser", { maxRunning: 4 }) });
    if (abuser) for (let i = 0; i < 500; i++) sim.submit("abuser", 16, 64);
    for (; sim.now < 1500; sim.step()) {
      if (sim.now % 40 < POLITE.length) sim.submit(POLITE[sim.now % 40]!, 8, 16);
      if ((sim.running().get("abuser") ?? 0) > 4) t.fail("more sequences than allowed");
    }
    return sim.jobs.filter((job) => job.tenant !== "abuser").map((job) => job.first! - job.arrived);
  };
  const [alone, beside] = [run(false), run(true)];
  t.ok(
    quantile(beside, 0.99) <= 2 * Math.max(1, quantile(alone, 0.99)),
    `${quantile(beside, 0.99)} steps beside it, ${quantile(alone, 0.99)} alone`,
  );
});

t.test("the service of two backlogged tenants differs by at most the paper's bound", async (t) => {
  for (let seed = 0; seed < WORKLOADS; seed++) {
    const random = seededRandom(seed);
    const upTo = (n: number): number => 1 + Math.floor(random() * n);
    const [longest, generate, slots] = [8 + upTo(40), 4 + upTo(30), 3 + upTo(12)];
    const weights = [1, 1, 2, 0.5, 3];
    const shares = new Shares();
    weights.forEach((weight, i) => shares.set(`t${i}`, { weight }));
    const sim = new Simulation({ slots, chunkTokens: 16, shares });
    const tenants = weights.map((_, i) => `t${i}`);
    // Theorem 4.4: 2 max(w_p L_input, w_q M), where a batch can generate at most M = slots x generate tokens.
    const bound = 2 * Math.max(longest, 2 * slots * generate);
    const ranges = tenants.flatMap((f, i) => tenants.slice(i + 1).map((g) => ({ f, g, low: 0, high: 0 })));
    // More in the server than there are rows: some of each tenant always wait, so each is backlogged.
    while (sim.now < 1500) {
      keepBusy(sim, tenants, slots + 1, () => ({ prompt: upTo(longest), generate: upTo(generate) }));
      sim.step();
      const had = (tenant: string): number => (sim.service.get(tenant) ?? 0) / shares.of(tenant).weight;
      for (const range of ranges) {
        const difference = had(range.f) - had(range.g);
        range.low = Math.min(range.low, difference);
        range.high = Math.max(range.high, difference);
      }
    }
    // Between any two moments the difference changes by at most high - low.
    for (const { f, g, low, high } of ranges) {
      const worst = (high - low) * Math.min(shares.of(f).weight, shares.of(g).weight);
      if (worst > bound) t.fail(`seed ${seed}, ${f} and ${g}: ${worst} > ${bound}`);
    }
  }
  t.pass(`${WORKLOADS} random workloads`);
});

t.test("backlogged tenants of weights 1, 2, 4 and 8 get service by weight", async (t) => {
  const shares = new Shares();
  const weights = [1, 2, 4, 8];
  weights.forEach((weight, i) => shares.set(`w${i}`, { weight }));
  const sim = new Simulation({ slots: 8, chunkTokens: 32, shares });
  const random = seededRandom(3);
  // The heavier the requests, the lighter the weight: neither count nor length decides.
  weights.forEach((weight, i) => {
    for (let job = 0; job < 2000; job++)
      sim.submit(`w${i}`, 2 + Math.floor(random() * 12), 4 + Math.floor((random() * 64) / weight));
  });
  while (sim.now < 3000) sim.step();
  t.equal(new Set(sim.queue.map(({ tenant }) => tenant)).size, weights.length, "all still wait");
  const shared = weights.map((weight, i) => sim.service.get(`w${i}`)! / weight);
  t.ok(jainIndex(shared) >= 0.98, `Jain's index ${jainIndex(shared).toFixed(4)}`);
});

t.test("fair order costs no throughput against first come, first served", async (t) => {
  const run = (policy?: QueuePolicy): number => {
    const random = seededRandom(11);
    const sim = new Simulation({ slots: 8, chunkTokens: 16, ...(policy ? { policy } : {}) });
    while (sim.now < 4000) {
      for (let arrivals = random() < 0.5 ? 1 : 0; arrivals > 0; arrivals--) {
        sim.submit(
          random() < 0.5 ? "abuser" : POLITE[Math.floor(random() * 8)]!,
          1 + Math.floor(random() * 30),
          1 + Math.floor(random() * 40),
          random() < 0.1 ? 3 : 1,
        );
      }
      sim.step();
    }
    return sim.total;
  };
  const [fair, fifo] = [run(), run(firstFit)];
  t.ok(Math.abs(fair / fifo - 1) <= 0.02, `${fair} of ${fifo}`);
});

t.test("a returning tenant gets no credit for its absence", async (t) => {
  const sim = new Simulation({ slots: 4, chunkTokens: 16 });
  const busy = (): void => keepBusy(sim, ["a", "b"], 8, () => ({ prompt: 8, generate: 16 }));
  for (; sim.now < 2000; sim.step()) busy();
  const before = new Map(sim.service);
  for (; sim.now < 2600; sim.step()) {
    busy();
    keepBusy(sim, ["late"], 8, () => ({ prompt: 8, generate: 16 }));
  }
  const had = ["a", "b", "late"].map((tenant) => sim.service.get(tenant)! - (before.get(tenant) ?? 0));
  t.ok(jainIndex(had) > 0.99, `${had.join(", ")} since it came`);

  // The same when nobody waits at the moment of its return: the last one that was admitted says how far service has come.
  const counters = new ServiceCounters({ of: () => ({ weight: 1, maxRunning: null, maxQueued: null }) });
  counters.arrive("a", []);
  counters.admit("a", 100);
  counters.generated("a", 50);
  counters.arrive("late", []);
  t.equal(counters.all.get("late"), 200);
  counters.arrive("poor", [{ tenant: "late" }]);
  t.equal(counters.all.get("poor"), 200);
});

t.test("a tenant ahead of the others stays ahead through a pause", async (t) => {
  const counters = new ServiceCounters({ of: () => ({ weight: 2, maxRunning: null, maxQueued: null }) });
  counters.arrive("greedy", []);
  counters.admit("greedy", 1000);
  counters.arrive("other", []);
  counters.admit("other", 10);
  counters.generated("greedy", 40);
  counters.arrive("greedy", []);
  t.equal(counters.all.get("greedy"), 540, "1000 / 2 + 2 x 40 / 2");
  t.equal(counters.all.get("other"), 505);
});

t.test("changed weights and limits apply to waiting requests", async (t) => {
  const shares = new Shares();
  const sim = new Simulation({ slots: 8, chunkTokens: 32, shares });
  for (const tenant of ["a", "b"]) for (let i = 0; i < 1500; i++) sim.submit(tenant, 4, 16);
  const run = (steps: number): number => {
    const before = new Map(sim.service);
    for (const until = sim.now + steps; sim.now < until; ) sim.step();
    const [a, b] = ["a", "b"].map((tenant) => sim.service.get(tenant)! - (before.get(tenant) ?? 0));
    return a! / b!;
  };
  const near = (ratio: number, wanted: number): void =>
    void t.ok(Math.abs(ratio / wanted - 1) < 0.1, `${ratio.toFixed(2)}, wanted ${wanted}`);
  near(run(800), 1);
  shares.set("a", { weight: 3 });
  near(run(800), 3);
  shares.set("a", { weight: 1 });
  near(run(800), 1);
  shares.set("a", { maxRunning: 2 });
  run(40);
  t.equal(sim.running().get("a"), 2);
  t.equal(sim.running().get("b"), 6, "the rest is not left idle");
  near(run(400), 1 / 3);
});

const job = (tenant: string, given: Partial<Schedulable> = {}): Schedulable => ({
  tenant,
  rows: 1,
  promptLength: 10,
  fed: 0,
  passedOver: 0,
  ...given,
});

t.test("each pick of a plan sees the cost of the picks before it", async (t) => {
  const queue = [job("a"), job("a"), job("b"), job("b")];
  const policy = fairShare({
    counters: new Map([
      ["a", 5],
      ["b", 6],
    ]),
    running: new Map(),
    shares: new Shares(),
  });
  const first = policy(queue, 4, [])!.request;
  t.equal(first, queue[0]);
  const rest = queue.slice(1);
  t.equal(policy(rest, 3, [first])!.request, queue[2], "a is at 15 now");
  const limited = fairShare({
    counters: new Map(),
    running: new Map([["a", 1]]),
    shares: new Shares().set("a", { maxRunning: 2 }).set("b", { maxRunning: 0 }),
  });
  t.equal(limited(queue.slice(0, 2), 4, [])!.request, queue[0]);
  t.equal(limited(queue.slice(1, 2), 3, [queue[0]!]), null, "nor more sequences than allowed");
});

t.test("a request that does not fit is overtaken, but not for ever; a tenant at its limit blocks nobody", async (t) => {
  const wide = job("a", { rows: 4 });
  const [narrow, other] = [job("a"), job("b")];
  const policy = fairShare({ counters: new Map([["b", 1]]), running: new Map(), shares: new Shares() });
  t.same(policy([wide, narrow, other], 4, []), { request: wide, passedOver: [] });
  t.same(policy([wide, narrow, other], 3, []), { request: narrow, passedOver: [wide] });
  t.same(policy([wide, other], 3, []), { request: other, passedOver: [wide] });
  const tired = { ...wide, passedOver: 64 };
  t.equal(policy([tired, narrow, other], 3, []), null);
  const before = fairShare({ counters: new Map([["a", 1]]), running: new Map(), shares: new Shares() });
  t.same(before([tired, other], 3, []), { request: other, passedOver: [] }, "it was b's turn anyhow");
  const atLimit = fairShare({
    counters: new Map([["b", 1]]),
    running: new Map([["a", 2]]),
    shares: new Shares().set("a", { maxRunning: 2 }),
  });
  t.same(atLimit([narrow, other], 3, []), { request: other, passedOver: [] });
  const lowered = fairShare({
    counters: new Map(),
    running: new Map(),
    shares: new Shares().set("a", { maxRunning: 2 }),
  });
  t.same(
    lowered([wide], 4, []),
    { request: wide, passedOver: [] },
    "taken in before its limit was lowered: it runs alone",
  );
});

t.test("every request is admitted, including wide ones in a flood of narrow ones", async (t) => {
  for (let seed = 0; seed < WORKLOADS; seed++) {
    const random = seededRandom(seed);
    const slots = 2 + Math.floor(random() * 7);
    const sim = new Simulation({ slots, chunkTokens: 4 + Math.floor(random() * 12) });
    while (sim.jobs.length < 600 || sim.busy) {
      while (sim.jobs.length < 600 && sim.queue.length < 20) {
        sim.submit(
          `t${Math.floor(random() ** 2 * 6)}`,
          1 + Math.floor(random() * 30),
          1 + Math.floor(random() * 6),
          random() < 0.05 ? slots : 1,
        );
      }
      sim.step();
      if (sim.rows.length > slots) t.fail("more rows than there are");
      if (sim.now > 20_000) return t.fail(`seed ${seed}: ${sim.queue.length} still wait`);
    }
    const longest = Math.max(...sim.jobs.map((one) => one.first! - one.arrived));
    if (longest > 2500) t.fail(`seed ${seed}: somebody waited ${longest} steps`);
  }
  t.pass("all admitted");
});

/** Ten times what can be done arrives at a queue of 32: the waits, in steps, and how many of their requests were refused, of the tenants but the abuser. */
function overload(given: { abuser: boolean; shared: boolean; policy?: QueuePolicy }): {
  waits: number[];
  refused: number;
} {
  const random = seededRandom(1);
  const sim = new Simulation({ slots: 16, chunkTokens: 256, ...(given.policy ? { policy: given.policy } : {}) });
  let [asked, refused] = [0, 0];
  for (; sim.now < 2000; sim.step()) {
    for (let arrivals = Math.floor(random() * 9); arrivals > 0; arrivals--) {
      const abuser = given.abuser && random() < 0.97;
      const tenant = abuser ? "abuser" : `t${Math.floor(random() * 20)}`;
      const [prompt, generate] = [10 + Math.floor(random() * 50), 16 + Math.floor(random() * 48)];
      if (!abuser) asked++;
      try {
        checkRoom(
          given.shared ? tenant : "all",
          given.shared ? sim.queue : sim.queue.map(() => ({ tenant: "all" })),
          { maxQueue: 32, freeRows: 0 },
          new Shares(),
        );
        sim.submit(tenant, prompt, generate);
      } catch {
        if (!abuser) refused++;
      }
    }
  }
  return {
    waits: sim.jobs.filter(({ tenant }) => tenant !== "abuser").map((one) => (one.first ?? sim.now) - one.arrived),
    refused: refused / asked,
  };
}

t.test(
  "in a full queue, shared places keep waits near first come, first served, and no tenant shuts out others",
  async (t) => {
    const [shared, taken, fifo] = [
      overload({ abuser: false, shared: true }),
      overload({ abuser: false, shared: false }),
      overload({ abuser: false, shared: false, policy: firstFit }),
    ];
    t.comment(
      `p99 of waits in steps: ${quantile(shared.waits, 0.99)}; places taken by who comes first ${quantile(taken.waits, 0.99)}; first come, first served ${quantile(fifo.waits, 0.99)}`,
    );
    t.ok(quantile(shared.waits, 0.99) <= 2 * quantile(fifo.waits, 0.99));
    t.ok(quantile(taken.waits, 0.99) > 2 * quantile(fifo.waits, 0.99), "without sharing places some wait for long");
    const [beside, shut] = [overload({ abuser: true, shared: true }), overload({ abuser: true, shared: false })];
    t.ok(beside.refused < 0.05, `${(100 * beside.refused).toFixed(1)} % refused beside the abuser`);
    t.ok(shut.refused > 0.5, `${(100 * shut.refused).toFixed(1)} % without sharing places`);
  },
);

t.test("counters of departed tenants are dropped, which changes no decision", async (t) => {
  const run = (sweeps: boolean): { admitted: string[]; size: number } => {
    const random = seededRandom(9);
    const sim = new Simulation({ slots: 4, chunkTokens: 16 });
    if (!sweeps) sim.counters.sweep = () => {};
    for (let i = 0; sim.now < 12_000; sim.step()) {
      if (random() < 0.2)
        sim.submit(
          random() < 0.3 ? `regular-${Math.floor(random() * 20)}` : `once-${i++}`,
          1 + Math.floor(random() * 20),
          1 + Math.floor(random() * 20),
        );
    }
    return { admitted: sim.admitted.map((one) => `${one.tenant} ${one.arrived}`), size: sim.counters.all.size };
  };
  const [swept, kept] = [run(true), run(false)];
  t.ok(kept.size > 1500 && swept.size <= 256, `${swept.size} of ${kept.size}`);
  t.same(swept.admitted, kept.admitted);
});
