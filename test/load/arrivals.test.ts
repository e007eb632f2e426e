import t from "tap";
import { clientsAt, levelAt, poissonArrivals, totalSeconds } from "../../src/load/arrivals.ts";
import { seededRandom } from "../../src/load/random.ts";

/** Kolmogorov's distance between a sample and a distribution function. */
function distance(sample: readonly number[], distribution: (x: number) => number): number {
  const sorted = [...sample].sort((a, b) => a - b);
  return Math.max(
    ...sorted.map((x, index) =>
      Math.max(
        Math.abs(distribution(x) - index / sorted.length),
        Math.abs(distribution(x) - (index + 1) / sorted.length),
      ),
    ),
  );
}

t.test("a constant rate has exponential gaps of the right mean, the same for the same seed", async (t) => {
  const steps = [{ for_s: 1000, rate: 20 }];
  const times = [...poissonArrivals(steps, seededRandom(7))];
  const gaps = times.map((time, index) => time - (times[index - 1] ?? 0));
  // 4 standard deviations of the number of arrivals; 1.63 / sqrt(n) is Kolmogorov's bound at 1 %.
  t.ok(Math.abs(times.length - 20_000) < 4 * Math.sqrt(20_000), `${times.length} arrivals`);
  t.ok(distance(gaps, (x) => 1 - Math.exp(-20 * x)) < 1.63 / Math.sqrt(gaps.length));
  t.same(times, [...poissonArrivals(steps, seededRandom(7))]);
  t.notSame(times.slice(0, 10), [...poissonArrivals(steps, seededRandom(8))].slice(0, 10));
});

t.test("arrivals follow the rate of steps and ramps", async (t) => {
  const steps = [
    { for_s: 100, rate: 10 },
    { for_s: 100, rate: 10, to: 90 },
    { for_s: 50, rate: 0 },
    { for_s: 100, rate: 90, to: 0 },
  ];
  const expected = [1000, 5000, 0, 4500];
  const times = [...poissonArrivals(steps, seededRandom(3))];
  let begins = 0;
  for (const [index, { for_s }] of steps.entries()) {
    const from = begins;
    begins += for_s;
    const inStep = times.filter((time) => time >= from && time < from + for_s);
    t.ok(
      Math.abs(inStep.length - expected[index]!) <= 4 * Math.sqrt(expected[index]!),
      `step ${index}: ${inStep.length}`,
    );
  }
  const ramp = times.filter((time) => time >= 100 && time < 200).map((time) => time - 100);
  t.ok(distance(ramp, (x) => (10 * x + 0.4 * x * x) / 5000) < 1.63 / Math.sqrt(ramp.length), "on the ramp, too");
  t.equal(totalSeconds(steps), 350);
  t.ok(times.every((time, index) => time >= (times[index - 1] ?? 0) && time <= 350));
});

t.test("clients of a closed loop over time", async (t) => {
  const steps = [
    { for_s: 10, clients: 4 },
    { for_s: 10, clients: 4, to: 24 },
  ];
  t.same(
    [0, 9.9, 15, 19.99, 20].map((at) => clientsAt({ process: "closed", steps }, at)),
    [4, 4, 14, 24, 0],
  );
  t.equal(levelAt([{ for_s: 2, level: 1, to: 3 }], 1), 2);
});
