import type { Test } from "tap";
import type { TokenBuckets } from "../../src/users/token-rate.ts";

/**
 * The contract of every TokenBuckets. `sleep` lets time pass for it, in milliseconds; `slack` is the tolerance for real
 * time, in tokens.
 */
export function tokenBucketsContract(
  t: Test,
  open: (t: Test) => Promise<{ buckets: TokenBuckets; sleep: (ms: number) => Promise<void>; slack: number }>,
): void {
  t.test("admits while it is not full; the last request may overfill it", async (t) => {
    const { buckets, slack } = await open(t);
    t.same(await buckets.admit("ann", 600, 500), { admitted: true, spent: 500 });
    t.match(await buckets.admit("ann", 600, 500), { admitted: true });
    const full = await buckets.admit("ann", 600, 1);
    t.equal(full.admitted, false);
    t.ok(full.spent <= 1000 && full.spent >= 1000 - slack, `${full.spent} of 1000`);
    t.match(await buckets.admit("bob", 600, 1), { admitted: true, spent: 1 }, "another user has another bucket");
  });

  t.test("drains at a sixtieth of the limit per second, debt included", async (t) => {
    const { buckets, sleep, slack } = await open(t);
    // 600 tokens drain per second.
    await buckets.charge("ann", 36_000, 36_300);
    t.match(await buckets.admit("ann", 36_000, 0), { admitted: false });
    await sleep(1000);
    const later = await buckets.admit("ann", 36_000, 100);
    t.equal(later.admitted, true);
    t.ok(Math.abs(later.spent - 35_800) <= 60 * slack, `${later.spent}, wanted 35,800`);
  });

  t.test("tokens given back are available again, but never more than the limit", async (t) => {
    const { buckets } = await open(t);
    await buckets.charge("ann", 600, 700);
    t.match(await buckets.admit("ann", 600, 1), { admitted: false });
    await buckets.charge("ann", 600, -300);
    t.match(await buckets.admit("ann", 600, 1), { admitted: true });
    await buckets.charge("ann", 600, -100_000);
    t.same(await buckets.admit("ann", 600, 7), { admitted: true, spent: 7 });
  });

  t.test("a changed limit holds at once", async (t) => {
    const { buckets } = await open(t);
    await buckets.charge("ann", 600, 700);
    t.match(await buckets.admit("ann", 600, 1), { admitted: false });
    t.match(await buckets.admit("ann", 1000, 1), { admitted: true });
    t.match(await buckets.admit("ann", 100, 1), { admitted: false });
  });

  t.test("counts all of many concurrent charges", async (t) => {
    const { buckets, slack } = await open(t);
    const all = await Promise.all(Array.from({ length: 100 }, () => buckets.admit("ann", 600, 20)));
    const admitted = all.filter((one) => one.admitted).length;
    // 30 requests fill it; every 20 tokens drained meanwhile admit one more.
    t.ok(admitted >= 30 && admitted <= 30 + Math.ceil(slack / 20), `${admitted} admitted`);
  });

  t.test("every user id has its own bucket", async (t) => {
    const { buckets } = await open(t);
    for (const user of ["a", "a}", "{a}", "a}:tokens", "ä"])
      t.same(await buckets.admit(user, 600, 9), { admitted: true, spent: 9 });
  });
}
