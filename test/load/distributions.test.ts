import t from "tap";
import { drawLength, popularity, type Length } from "../../src/load/distributions.ts";
import { fork, seededRandom } from "../../src/load/random.ts";

const DRAWS = 200_000;

t.test("Zipf draws every rank as often as the closed form says", async (t) => {
  for (const [count, s] of [
    [50, 1.1],
    [1000, 0.8],
    [1, 2],
  ] as const) {
    const weights = Array.from({ length: count }, (_, index) => (index + 1) ** -s);
    const harmonic = weights.reduce((sum, weight) => sum + weight, 0);
    const draw = popularity({ zipf: s }, count);
    const random = seededRandom(11);
    const seen = new Array<number>(count).fill(0);
    for (let i = 0; i < DRAWS; i++) seen[draw(random)]!++;
    const chiSquare = weights.reduce(
      (sum, weight, index) => sum + (seen[index]! - (DRAWS * weight) / harmonic) ** 2 / ((DRAWS * weight) / harmonic),
      0,
    );
    // Chi square with n - 1 degrees of freedom: mean n - 1, variance 2 (n - 1).
    t.ok(
      chiSquare <= count - 1 + 5 * Math.sqrt(2 * count),
      `${count} ranks, s ${s}: chi square ${chiSquare.toFixed(0)}`,
    );
  }
});

t.test("Zipf over 100,000 ranks can draw the first and the last", async (t) => {
  const draw = popularity({ zipf: 0.9 }, 100_000);
  t.equal(
    draw(() => 0),
    0,
  );
  t.equal(
    draw(() => 1 - 2 ** -53),
    99_999,
  );
});

t.test("uniform popularity reaches all equally", async (t) => {
  const draw = popularity("uniform", 10);
  const random = seededRandom(5);
  const seen = new Array<number>(10).fill(0);
  for (let i = 0; i < DRAWS; i++) seen[draw(random)]!++;
  t.ok(
    seen.every((count) => Math.abs(count - DRAWS / 10) < 5 * Math.sqrt(DRAWS / 10)),
    String(seen),
  );
});

t.test("lengths are whole numbers within bounds, with the right mean", async (t) => {
  const cases: [Length, number][] = [
    [7, 7],
    [{ uniform: [3, 9] }, 6],
    [{ exponential: { mean: 20, max: 100_000 } }, 20],
    // The mean of a lognormal is median * exp(sigma^2 / 2).
    [{ lognormal: { median: 50, sigma: 0.5, max: 100_000 } }, 50 * Math.exp(0.125)],
    [
      {
        weighted: [
          [10, 3],
          [30, 1],
        ],
      },
      15,
    ],
  ];
  for (const [length, mean] of cases) {
    const random = seededRandom(2);
    const values = Array.from({ length: 50_000 }, () => drawLength(length, random));
    t.ok(values.every((value) => Number.isInteger(value) && value >= 1));
    const got = values.reduce((sum, value) => sum + value, 0) / values.length;
    t.ok(Math.abs(got - mean) / mean < 0.02, `${JSON.stringify(length)}: mean ${got.toFixed(2)}`);
  }
  const random = seededRandom(2);
  const cut = Array.from({ length: 10_000 }, () =>
    drawLength({ lognormal: { median: 50, sigma: 1, max: 60 } }, random),
  );
  t.equal(Math.max(...cut), 60);
  t.same(new Set(Array.from({ length: 1000 }, () => drawLength({ uniform: [1, 3] }, random))), new Set([1, 2, 3]));
});

t.test("forked random streams are the same for one purpose and differ between purposes", async (t) => {
  const first = (seed: number, purpose: string): number[] => Array.from({ length: 4 }, fork(seed, purpose));
  t.same(first(1, "a"), first(1, "a"));
  t.notSame(first(1, "a"), first(1, "b"));
  t.notSame(first(1, "a"), first(2, "a"));
});
