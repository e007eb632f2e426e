/**
 * Three replicas on one Redis: after a removal's receipt, no replica gives the removed user a token, no data of the
 * user is left in Redis or a cache, and other users are not affected.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Redis } from "ioredis";
import t, { type Test } from "tap";
import { kvFromBytes } from "../../src/prefixes/digest.ts";
import type { RemovalReceipt } from "../../src/replicas/removal-types.ts";
import { record } from "../prefixes/records.ts";
import { effort } from "../support/effort.ts";
import { engineRequest, goldenDir, openTestModel, seededRandom, submit, type ChoiceResult } from "../support/model.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { ReplicaProcess } from "../support/replica-process.ts";

skipFileWithout(t, "redis-server");

const REMOVALS = effort({ short: 5, long: 25 });
const PROMPTS = [[3, 1, 4], [20, 7], [99, 98, 97, 96, 95, 94], [5]];
const MAX_NEW = 60;

interface Removal {
  readonly receipt: RemovalReceipt;
  readonly at: number;
}

async function setUp(t: Test, leaseMs: number, count = 3): Promise<{ redis: TestRedis; replicas: ReplicaProcess[] }> {
  const redis = await startRedis();
  const replicas = Array.from({ length: count }, () => new ReplicaProcess(redis.url, leaseMs));
  t.teardown(async () => {
    await Promise.all(replicas.map((replica) => replica.kill()));
    await redis.stop();
  });
  await Promise.all(replicas.map(({ ready }) => ready));
  return { redis, replicas };
}

const create = async (replica: ReplicaProcess, user: string, seed: number): Promise<void> => {
  await replica.call({ op: "create", user });
  await replica.call({ op: "put", user, name: "p", seed, length: 3 + (seed % 9) });
};
const remove = (replica: ReplicaProcess, user: string): Promise<Removal> =>
  replica.call({ op: "remove", user }) as Promise<Removal>;

/** Keys whose name or content contains the user, except the mark that the user is removed. */
async function leftInRedis(redis: TestRedis, user: string): Promise<string[]> {
  const client = new Redis(redis.url);
  const found: string[] = [];
  for (const key of await client.keys("*")) {
    if (key === `prefixd:{${user}}:removed`) continue;
    const type = await client.type(key);
    const read = {
      string: () => client.get(key),
      hash: () => client.hgetall(key),
      zset: () => client.zrange(key, "0", "-1"),
      set: () => client.smembers(key),
    }[type];
    // A key may be gone since KEYS: expired or deleted.
    if (key.includes(user) || JSON.stringify((await read?.()) ?? "").includes(user)) found.push(key);
  }
  client.disconnect();
  return found;
}

t.test(`${REMOVALS} users removed at random under load`, { timeout: 280_000 }, async (t) => {
  const { redis, replicas } = await setUp(t, 10_000);
  const model = await openTestModel(goldenDir("gelu-new-f32"), { slots: 1, prefillChunk: 16 });
  t.teardown(() => model.close());
  const solo = new Map<string, Promise<ChoiceResult>>();
  const alone = (seed: number, prompt: number): Promise<ChoiceResult> => {
    const compute = async (): Promise<ChoiceResult> => {
      const length = 3 + (seed % 9);
      const { kv } = await record({ user: "x", name: "p" }, seed, { shape: model.runner.shape, length });
      const [choice] = await submit(
        model.engine,
        engineRequest({
          promptIds: Int32Array.from(PROMPTS[prompt]!),
          prefix: kvFromBytes(length, kv),
          maxNewTokens: MAX_NEW,
        }),
      ).done;
      return choice!;
    };
    const key = `${seed} ${prompt}`;
    solo.set(key, solo.get(key) ?? compute());
    return solo.get(key)!;
  };

  const random = seededRandom(17);
  const below = (limit: number): number => Math.floor(random() * limit);
  const users = Array.from({ length: 6 }, (_, i) => ({
    id: `user-number-${i}`,
    seed: i,
    state: "live",
    removedAt: Infinity,
    open: new Set<Promise<unknown>>(),
  }));
  await Promise.all(users.map((user) => create(replicas[below(3)]!, user.id, user.seed)));

  const counts = { whole: 0, ended: 0, refused: 0, wrong: 0, late: 0, unexpected: [] as string[] };
  let over = false;
  const worker = async (): Promise<void> => {
    while (!over) {
      const user = users[below(users.length)]!;
      if (user.state === "creating") {
        await sleep(5);
        continue;
      }
      const [seed, prompt, begun] = [user.seed, below(PROMPTS.length), user.state];
      const run = replicas[below(3)]!.run(user.id, "p", PROMPTS[prompt]!, MAX_NEW).then(async (result) => {
        const expected = await alone(seed, prompt);
        if (!result.ids.every((id, i) => id === expected.ids[i] && result.logprobs[i] === expected.logprobs[i]))
          counts.wrong++;
        if (result.lastAt > user.removedAt || (begun === "removed" && result.ids.length > 0)) counts.late++;
        if (result.end === "length") counts.whole++;
        else if (user.state === "live") counts.unexpected.push(result.end);
        else if (result.ids.length > 0) counts.ended++;
        else counts.refused++;
        if (
          result.end === "length"
            ? result.ids.length !== MAX_NEW
            : !["removed", "prefix_not_found"].includes(result.end)
        )
          counts.unexpected.push(`${result.end}, ${result.ids.length} ids`);
      });
      user.open.add(run);
      await run.finally(() => user.open.delete(run));
    }
  };
  const load = Array.from({ length: 12 }, worker);
  const totals = { running: 0, queued: 0 };
  for (let i = 0; i < REMOVALS; i++) {
    await sleep(below(150));
    const user = users[below(users.length)]!;
    const coordinator = replicas[below(3)]!;
    user.state = "removing";
    const uploads = [0, 1].map((n) =>
      replicas[below(3)]!.call({ op: "put", user: user.id, name: `late-${n}`, seed: 70 + n, length: 40 }).catch(
        (error: Error) => error.message,
      ),
    );
    const { receipt, at } = await remove(coordinator, user.id);
    user.removedAt = at;
    user.state = "removed";
    if (receipt.replicas.length !== 3 || receipt.replicas.some(({ acknowledged_at }) => acknowledged_at === null))
      t.fail("every replica acknowledges", { receipt });
    if (receipt.removed.prefixes < 1 || receipt.removed.bytes === 0 || receipt.removed.keys !== 1)
      t.fail("the counts", { receipt });
    totals.running += receipt.removed.running;
    totals.queued += receipt.removed.queued;
    const left = await leftInRedis(redis, user.id);
    if (left.length > 0) t.fail(`left in Redis: ${left.join()}`);
    for (const reply of await Promise.all(uploads))
      if (typeof reply === "string" && reply !== "removed") t.fail(`an upload ended with ${reply}`);
    await sleep(below(60));
    user.state = "creating";
    await Promise.all(user.open);
    for (const replica of replicas)
      if ((await replica.call({ op: "holds", user: user.id })) !== false) t.fail("a cache holds something of the user");
    const again = await leftInRedis(redis, user.id);
    if (again.length > 0) t.fail(`came back to Redis: ${again.join()}`);
    user.seed += 10;
    user.removedAt = Infinity;
    await create(replicas[below(3)]!, user.id, user.seed);
    user.state = "live";
  }
  over = true;
  await Promise.all(load);
  t.comment(
    `${counts.whole} whole runs, ${counts.ended} ended, ${counts.refused} refused; receipts: ${totals.running} running, ${totals.queued} queued`,
  );
  t.same(
    [counts.wrong, counts.late, counts.unexpected],
    [0, 0, []],
    "tokens bit-equal to solo runs, none after a receipt",
  );
  t.ok(counts.whole > REMOVALS && totals.running > 0, "there was load");
  await Promise.all(users.map((user) => remove(replicas[0]!, user.id)));
  for (const replica of replicas) t.equal(await replica.call({ op: "dirtyRows" }), 0, "all KV rows are zero");
  await t.rejects(
    remove(replicas[1]!, users[0]!.id),
    { message: "user_not_found" },
    "once removed, there is no such user",
  );
});

t.test("a replica stopped during a removal serves nothing stale when it continues", { timeout: 60_000 }, async (t) => {
  const leaseMs = 1500;
  const { replicas } = await setUp(t, leaseMs, 2);
  const [a, b] = replicas as [ReplicaProcess, ReplicaProcess];
  for (let round = 0; round < effort({ short: 2, long: 4 }); round++) {
    const [victim, other] = [`victim-${round}`, `other-${round}`];
    await create(a, victim, round);
    await create(a, other, 50 + round);
    await b.run(victim, "p", [1, 2], 5);
    const running = Array.from({ length: 20 }, () => b.run(victim, "p", [1, 2], 80));
    await sleep(5 + round * 7);
    b.child.kill("SIGSTOP");
    const more = Array.from({ length: 5 }, () => b.run(victim, "p", [1, 2], 10));
    const started = performance.now();
    const { receipt, at } = await remove(a, victim);
    const id = receipt.replicas.find(({ acknowledged_at }) => acknowledged_at === null)?.id;
    t.ok(id !== undefined && receipt.replicas.length === 2, "the receipt says which one did not answer");
    t.ok(performance.now() - started < 20_000, `after ${Math.round(performance.now() - started)} ms`);
    b.child.kill("SIGCONT");
    for (const result of await Promise.all([...running, ...more])) {
      if (result.lastAt > at) t.fail(`a token ${result.lastAt - at} us after the receipt`);
      if (result.end === "length" && result.lastAt > at) t.fail("it went on");
    }
    t.equal(await b.call({ op: "id" }), id);
    while ((await b.call({ op: "mayServe" })) !== true) await sleep(20);
    t.match(await b.run(victim, "p", [1, 2], 5), { ids: [] }, "not served");
    t.equal(await b.call({ op: "holds", user: victim }), false);
    t.match(await b.run(other, "p", [1, 2], 5), { end: "length" }, "others are served again");
  }
});

t.test("a replica killed with -9 delays a removal no longer than its lease", { timeout: 60_000 }, async (t) => {
  const { replicas } = await setUp(t, 1500, 2);
  const [a, b] = replicas as [ReplicaProcess, ReplicaProcess];
  for (const user of ["ann", "bob"]) await create(a, user, 1);
  await b.kill();
  const started = performance.now();
  const { receipt } = await remove(a, "ann");
  t.equal(receipt.replicas.filter(({ acknowledged_at }) => acknowledged_at === null).length, 1);
  // Far less than the wait for a live replica that does not answer.
  t.ok(performance.now() - started < 20_000);
  await sleep(500);
  t.equal((await remove(a, "bob")).receipt.replicas.length, 1, "then it is known to be gone");
});

t.test(
  "deleting a prefix ends its requests on all replicas; its user can use other prefixes",
  { timeout: 60_000 },
  async (t) => {
    const { replicas } = await setUp(t, 10_000, 2);
    const [a, b] = replicas as [ReplicaProcess, ReplicaProcess];
    await create(a, "ann", 1);
    await a.call({ op: "put", user: "ann", name: "q", seed: 2, length: 4 });
    const results: Awaited<ReturnType<ReplicaProcess["run"]>>[] = [];
    let over = false;
    // Some requests are always in progress.
    const doomed = Array.from({ length: 20 }, async () => {
      while (!over) results.push(await b.run("ann", "p", [1, 2], 80));
    });
    while (results.length === 0) await sleep(1);
    const spared = Array.from({ length: 5 }, () => b.run("ann", "q", [1, 2], 80));
    const { at } = (await a.call({ op: "removePrefix", user: "ann", name: "p" })) as { at: number };
    over = true;
    await Promise.all(doomed);
    t.ok(
      results.every(({ lastAt }) => lastAt <= at),
      "not a token after the answer",
    );
    t.ok(results.some(({ end }) => end === "removed"));
    for (const { end, ids } of await Promise.all(spared)) t.same([end, ids.length], ["length", 80]);
    t.match(await b.run("ann", "p", [1], 4), { end: "prefix_not_found", ids: [] });
    await t.rejects(a.call({ op: "removePrefix", user: "ann", name: "p" }), { message: "prefix_not_found" });
  },
);

t.test(
  "with Redis away for longer than the lease, requests end, nothing is served, and replicas recover by themselves",
  { timeout: 60_000 },
  async (t) => {
    const { redis, replicas } = await setUp(t, 1500, 1);
    const [a] = replicas as [ReplicaProcess];
    await create(a, "ann", 1);
    const ends: string[] = [];
    let over = false;
    const load = Array.from({ length: 8 }, async () => {
      while (!over) {
        const { end } = await a.run("ann", "p", [1, 2], 80);
        ends.push(end);
        if (end !== "length") await sleep(20);
      }
    });
    while (!ends.includes("length")) await sleep(5);
    redis.signal("SIGSTOP");
    while ((await a.call({ op: "mayServe" })) !== false) await sleep(20);
    t.match(await a.run("ann", "p", [1, 2], 4), { end: "store_unavailable", ids: [] });
    redis.signal("SIGCONT");
    // On a busy machine a lease this short may expire again.
    while ((await a.run("ann", "p", [1, 2], 4)).end !== "length") await sleep(20);
    over = true;
    await Promise.all(load);
    t.same([...new Set(ends)].sort(), ["length", "store_unavailable"]);
  },
);
