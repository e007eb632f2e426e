/** The parts of training jobs that need no process. */
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { checkData } from "../../src/training/jobs/check-data.ts";
import { watchClaim } from "../../src/training/jobs/claim-watch.ts";
import { Pacer } from "../../src/training/jobs/pacer.ts";
import { inTurn, JobRunner } from "../../src/training/jobs/runner.ts";
import { CLAIM_MS } from "../../src/training/jobs/store.ts";
import { NOW, putFile, QUOTA, trainingJob } from "../contract/training-store.ts";
import { trainingStoreInThread } from "../support/training-store.ts";

const never = new AbortController().signal;

t.test("while the server generates, an update is its share of the time; else there is no rest", async (t) => {
  let now = 0;
  const pacer = new Pacer(
    0.1,
    () => now,
    async (ms) => void (now += ms),
  );
  await pacer.rest(50, never);
  t.equal(now, 0, "nobody is disturbed");
  pacer.busy = true;
  await pacer.rest(50, never);
  t.equal(now, 450);
  const stopped = new AbortController();
  stopped.abort();
  await pacer.rest(50, stopped.signal);
  t.equal(now, 450, "a stopped job does not wait");
});

t.test("a rest ends when the server is idle", async (t) => {
  let now = 0;
  const pacer = new Pacer(
    0.01,
    () => now,
    async (ms) => {
      now += ms;
      if (now >= 100) pacer.busy = false;
    },
  );
  pacer.busy = true;
  await pacer.rest(1000, never);
  t.equal(now, 100);
});

t.test("a process whose server is silent ends itself, but not because an update took long", (t) => {
  let now = 0;
  let look = (): void => {};
  let lapses = 0;
  const held = watchClaim(
    () => lapses++,
    () => now,
    (_ms, what) => (look = what),
  );
  const pass = (ms: number, times: number): void => {
    for (let i = 0; i < times; i++) {
      now += ms;
      look();
    }
  };
  pass(CLAIM_MS / 10, 9);
  held();
  pass(CLAIM_MS / 10, 10);
  t.equal(lapses, 0);
  pass(3 * CLAIM_MS, 1);
  t.equal(lapses, 0, "what was said meanwhile may not have been read yet");
  held();
  pass(CLAIM_MS / 10, 10);
  t.equal(lapses, 0);
  pass(CLAIM_MS / 10, 1);
  t.equal(lapses, 1);
  t.end();
});

t.test("the user with the least service is next, then the oldest job", (t) => {
  const [ann, bob, eve] = [trainingJob("ann", NOW), trainingJob("bob", NOW + 1), trainingJob("eve", NOW + 2)];
  const order = (service: Record<string, number>, running: Record<string, number> = {}): string[] =>
    inTurn(
      [eve, bob, ann].map((job) => ({ job, running: running[job.user] ?? 0 })),
      (user) => service[user] ?? 0,
    ).map(({ job }) => job.user);
  t.same(order({}), ["ann", "bob", "eve"]);
  t.same(order({ bob: 5, eve: 9 }, { ann: 1 }), ["bob", "eve", "ann"], "whose job is trained elsewhere is last");
  t.same(order({ ann: 5, bob: 1, eve: 1 }), ["bob", "eve", "ann"]);
  t.end();
});

t.test("no job of a removed user is taken; one that cannot begin waits, and fails after three tries", async (t) => {
  const store = trainingStoreInThread(t.testdir());
  const job = trainingJob("ann", NOW, { trainingFile: (await putFile(store, "ann", "{}")).id });
  await store.createJob(job, QUOTA, NOW);
  let [started, suspended] = [0, false];
  const runner = new JobRunner({
    store,
    quota: QUOTA,
    startChild: () => {
      started++;
      // A process that ends at once.
      return spawn(process.execPath, ["-e", ""], { stdio: ["ignore", "ignore", "pipe", "ipc"] });
    },
    register: () => Promise.reject(new Error("nothing is registered")),
    unregister: async () => {},
    registeredBy: async () => [],
    isBusy: () => false,
    charge: () => {},
    serviceOf: () => 0,
    isSuspended: async () => suspended,
    mayRun: () => true,
    model: "none",
    cacheDir: "none",
    threads: 1,
    share: 1,
    onTokens: () => {},
    onEnd: () => {},
    log: () => {},
  });
  t.teardown(async () => {
    await runner.close();
    await store.close();
  });
  await runner.endOfUser("ann");
  runner.look();
  await runner.kill("ann");
  t.equal(started, 0);
  t.equal((await store.getJob("ann", job.id))?.status, "queued");
  runner.readmitUser("ann");
  suspended = true;
  runner.look();
  await runner.suspendUser("ann");
  t.equal(started, 0, "nor one of a suspended user");
  suspended = false;
  for (;;) {
    runner.look();
    const now = await store.getJob("ann", job.id);
    if (now?.status === "failed") break;
    await sleep(10);
  }
  t.match(await store.getJob("ann", job.id), { error: { code: "training_crashed" } });
  t.equal(started, 3);
  t.same(readdirSync((await store.folderOf("ann", job.id)).path), [], "its folder was cleared");
});

t.test("a line of any length is read in bounded memory, and others are served meanwhile", async (t) => {
  const chunk = Buffer.alloc(1 << 20, "x");
  const endless = async function* (): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < 1024; i++) yield chunk;
  };
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const watched = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of endless()) {
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      yield piece;
    }
  };
  await t.rejects(checkData(watched()), {
    code: "training_data_invalid",
    message: /line 1: it is longer than 1048576/,
  });
  t.ok(most < 64 << 20, `${most} bytes`);

  const good = Buffer.from('{"prompt": "a", "completion": "b"}\n'.repeat(3_000));
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await checkData(
    (async function* () {
      for (let i = 0; i < 10; i++) yield good;
    })(),
  );
  clearInterval(timer);
  t.ok(turns > 0, `${turns} turns of the event loop within one file`);
});
