/** Shares by work: what choosing a token takes is charged, on a clock that is computed. */
import t from "tap";
import { ChoosingCost } from "../../../src/engine/scheduling/choosing-cost.ts";
import { Engine } from "../../../src/engine/engine.ts";
import { RecentMedian } from "../../../src/engine/scheduling/recent-median.ts";
import type { EngineRequest } from "../../../src/engine/request.ts";
import { FakeRunner, oracle } from "../../support/fake-runner.ts";
import { engineRequest } from "../../support/model.ts";
import { CountingObserver, Recording } from "../../support/recording.ts";

const SLOTS = 4;
/** Milliseconds of a run, a quarter of it for each row. */
const RUN = 8;

/** Two tenants who always have requests waiting, one of whose tokens take `choosing` milliseconds to be chosen; by tenant, tokens until there are 1200, and all of them. */
async function contest(
  choosing: number,
  given: Partial<EngineRequest> = {},
): Promise<{ share: number; tokens: number[][] }> {
  let now = 0;
  const runner = new FakeRunner(SLOTS);
  const decode = runner.decode.bind(runner);
  runner.decode = (ids, positions) => ((now += RUN * (ids.length / SLOTS)), decode(ids, positions));
  const engine = new Engine({
    runner,
    maxQueue: 10_000,
    prefillChunk: 64,
    observer: new CountingObserver(),
    now: () => now,
  });
  const made = { heavy: 0, plain: 0 };
  let share = 0;
  const count = (tenant: "heavy" | "plain", tokens: number): void => {
    if (tenant === "heavy") now += choosing * tokens;
    made[tenant] += tokens;
    if (share === 0 && made.heavy + made.plain >= 1200) share = made.heavy / made.plain;
  };
  const recordings = Array.from({ length: 300 }, (_, i) => {
    const tenant = i % 2 === 0 ? "heavy" : "plain";
    const request = engineRequest({ tenant, promptIds: Int32Array.of(i % 90), maxNewTokens: 12, ...given });
    return new Recording(
      engine,
      request,
      given.beams ? { onBeamStep: () => count(tenant, 2) } : { onToken: () => (count(tenant, 1), "continue") },
    );
  });
  await Promise.all(recordings.map(({ ended }) => ended));
  return { share, tokens: recordings.map(({ ids }) => ids[0]!) };
}

t.test(
  "a tenant whose choices cost three times a row gets a quarter of the tokens, the same ones as ever",
  async (t) => {
    const [light, heavy] = [await contest(0), await contest((3 * RUN) / SLOTS)];
    t.ok(Math.abs(light.share - 1) < 0.1, `${light.share.toFixed(2)} of the other's`);
    t.ok(Math.abs(heavy.share - 1 / 4) < 0.05, `${heavy.share.toFixed(2)} of the other's`);
    t.same(heavy.tokens, light.tokens);
    t.same(heavy.tokens[7], oracle(engineRequest({ promptIds: Int32Array.of(7), maxNewTokens: 12 }), 0));
  },
);

t.test("so does one whose beams cost that much", async (t) => {
  const { share } = await contest((3 * RUN) / SLOTS, {
    beams: { numBeams: 2, lengthPenalty: 1, earlyStopping: false },
  });
  t.ok(Math.abs(share - 1 / 4) < 0.06, `${share.toFixed(2)} of the other's`);
});

t.test("pauses are charged to nobody; with no run to compare to, every token costs the same", async (t) => {
  const costs = new ChoosingCost();
  const times = new RecentMedian();
  t.equal(costs.of(times, 5, 1), 1);
  t.equal(costs.of(times, 5, 0), 0);
  costs.ran(32, 32);
  for (let token = 0; token < 4; token++) costs.of(times, 0.5, 1);
  t.equal(costs.of(times, 5000, 1), 1.5);
  t.equal(costs.of(times, 1, 2), 3, "of two at once each takes half");
});
