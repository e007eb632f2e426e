/** How a job ends when its user, another replica or the store gets in between; the process that trains is a short program. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { checkpointsIn, sweepCheckpoints } from "../../src/training/jobs/checkpoints.ts";
import { JobRunner, type RunnerParts } from "../../src/training/jobs/runner.ts";
import { TrainingService } from "../../src/training/jobs/service.ts";
import type { TrainingStore } from "../../src/training/jobs/store.ts";
import type { TrainingJob } from "../../src/training/jobs/types.ts";
import { NOW, putFile, QUOTA, trainingJob } from "../contract/training-store.ts";
import { FakeRegistry } from "../support/fake-registry.ts";
import { trainingStoreInThread } from "../support/training-store.ts";

/** Says what a training says, with one checkpoint, and has an adapter of the demo's as its result. */
const TRAINED = `
  const { cpSync, writeFileSync } = require("node:fs");
  process.once("message", ({ task: { folder } }) => {
    const say = (message) => process.send(message);
    say({ kind: "begun", step: 0, steps: 2, examples: 9, held: 1 });
    writeFileSync(folder + "/training.state", "state");
    say({ kind: "saved" });
    cpSync("prefixes/intent", folder + "/checkpoint-1", { recursive: true });
    say({ kind: "checkpoint", evaluation: { step: 1, loss: 1, accuracy: 0.5 } });
    say({ kind: "progress", step: 2, loss: 0.5, tokens: 20, spent: 20 });
    cpSync("prefixes/intent", folder + "/result", { recursive: true });
    say({ kind: "done" });
    process.send({ kind: "bye" }, () => process.exit());
  });`;

interface Rig {
  readonly store: TrainingStore;
  readonly job: TrainingJob;
  readonly service: TrainingService;
  readonly registered: string[];
  readonly ended: string[];
  /** Processes that were started. */
  readonly starts: () => number;
  /** Resolves when the job has ended. */
  readonly end: () => Promise<TrainingJob>;
}

/** Runs a job of ann's. `over` gets in between. */
async function run(
  t: Test,
  over: (rig: Rig) => { store?: Partial<TrainingStore>; parts?: Partial<RunnerParts> },
): Promise<Rig> {
  const store = trainingStoreInThread(t.testdir());
  const job = trainingJob("ann", NOW, { trainingFile: (await putFile(store, "ann", "{}")).id });
  await store.createJob(job, QUOTA, NOW);
  let started = 0;
  const [registered, ended]: [string[], string[]] = [[], []];
  const rig: Rig = {
    store,
    job,
    registered,
    ended,
    starts: () => started,
    get service() {
      return service;
    },
    end: async () => {
      for (;;) {
        const now = (await store.getJob("ann", job.id))!;
        if (now.finishedAt !== null) return now;
        await sleep(10);
      }
    },
  };
  const { store: changed = {}, parts = {} } = over(rig);
  const methods = changed as Record<string | symbol, unknown>;
  const seen = new Proxy(store, {
    get: (target, property) => {
      const value: unknown = methods[property] ?? Reflect.get(target, property);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  const all: RunnerParts = {
    store: seen,
    quota: QUOTA,
    startChild: () => {
      started++;
      return spawn(process.execPath, ["-e", TRAINED], { stdio: ["ignore", "ignore", "pipe", "ipc"] });
    },
    register: async (_claim, name) => void registered.push(name),
    unregister: async (_job, name) => void registered.splice(registered.indexOf(name), 1),
    registeredBy: async (_job, start) => registered.filter((name) => name.startsWith(start)),
    isSuspended: async () => false,
    isBusy: () => false,
    charge: () => {},
    serviceOf: () => 0,
    mayRun: () => true,
    model: "none",
    cacheDir: "none",
    threads: 1,
    share: 1,
    onTokens: () => {},
    onEnd: (status) => void ended.push(status),
    log: () => {},
    ...parts,
  };
  const runner = new JobRunner(all);
  const service = new TrainingService({
    store: seen,
    runner,
    quota: QUOTA,
    base: "f".repeat(64),
    endEverywhere: (user, id) => runner.kill(user, id),
    sweep: (of) => sweepCheckpoints(all, of),
    onCancel: () => void ended.push("cancelled"),
  });
  t.teardown(async () => {
    await runner.close();
    await store.close();
  });
  return rig;
}

/** No method of the store that a run uses answers at the first try. */
function awayAtFirst(store: TrainingStore): Partial<TrainingStore> {
  const names = ["progress", "addEvent", "keepState", "addCheckpoint", "listCheckpoints", "seal", "end"] as const;
  const tried = new Set<string>();
  return Object.fromEntries(
    names.map((name) => [
      name,
      async (...args: unknown[]): Promise<unknown> => {
        const call = (): unknown => Reflect.apply(Reflect.get(store, name), store, args);
        if (tried.has(name)) return call();
        tried.add(name);
        // As when the answer was lost on its way back.
        if (name === "progress") await call();
        throw new PrefixdError("store_unavailable", "It is away.", { retryAfter: 1 });
      },
    ]),
  );
}

t.test("undisturbed: the checkpoint and the result are registered, once each", async (t) => {
  const rig = await run(t, () => ({}));
  t.match(await rig.end(), { status: "succeeded", step: 2, steps: 2, tokens: 20, error: null });
  t.same(rig.registered, ["dates.step-1", "dates"]);
  t.same(rig.ended, ["succeeded"]);
});

t.test("cancelled while its result is being registered: it is too late, and the job has succeeded", async (t) => {
  const refused: unknown[] = [];
  const rig = await run(t, (rig) => ({
    parts: {
      register: async (_claim, name) => {
        const { id, name: last } = rig.job;
        if (name === last) refused.push(await rig.service.cancel("ann", id).catch((error: unknown) => error));
        rig.registered.push(name);
      },
    },
  }));
  t.match(await rig.end(), { status: "succeeded" });
  t.match(refused, [{ code: "training_job_ended", message: /is being registered/ }]);
  t.same(rig.registered, ["dates.step-1", "dates"]);
});

t.test("cancelled just before that: nothing is registered but the checkpoint", async (t) => {
  let cancelled: Promise<unknown> = Promise.resolve();
  const rig = await run(t, (rig) => ({
    store: {
      seal: async (claim) => {
        const { store, job } = rig;
        cancelled = rig.service.cancel("ann", job.id);
        while ((await store.getJob("ann", job.id))?.status !== "cancelled") await sleep(5);
        return store.seal(claim);
      },
    },
  }));
  t.match(await rig.end(), { status: "cancelled" });
  await cancelled;
  t.same(rig.registered, ["dates.step-1"]);
  t.same(rig.ended, ["cancelled"]);
  const { path } = await rig.store.folderOf("ann", rig.job.id);
  t.notOk(existsSync(`${path}/result`));
});

t.test("a store that is away for a moment: the process goes on, and nothing is lost or told twice", async (t) => {
  const rig = await run(t, ({ store }) => ({ store: awayAtFirst(store) }));
  t.match(await rig.end(), { status: "succeeded", step: 2, tokens: 20 });
  t.equal(rig.starts(), 1);
  t.same(rig.registered, ["dates.step-1", "dates"]);
  t.equal((await rig.store.progress({ user: "ann", id: rig.job.id, holder: "x" }, {}, Date.now())).dayTokens, 20);
  const said = (await rig.store.listEvents("ann", rig.job.id, { limit: 99, order: "asc" })).map((one) => one.message);
  for (const what of [/^Fine-tuning job started/, /^Checkpoint created/, /^Step 2\/2/, /^New fine-tuned/, /completed$/])
    t.equal(said.filter((message) => what.test(message)).length, 1, String(what));
});

t.test("a full store: it trains on without its state being kept, and fails with a reason", async (t) => {
  const full = (): Promise<never> => Promise.reject(new PrefixdError("store_full", "There is no memory left."));
  const rig = await run(t, () => ({ store: { keepState: full }, parts: { register: full } }));
  t.match(await rig.end(), { status: "failed", step: 2, error: { code: "store_full" } });
  t.equal(rig.starts(), 1);
  const said = await rig.store.listEvents("ann", rig.job.id, { limit: 99, order: "asc" });
  t.ok(said.some(({ message }) => message === "The checkpoint of step 1 is not registered: There is no memory left."));
  t.same(rig.ended, ["failed"]);
});

t.test("a checkpoint that was registered but not recorded goes when the job goes on, or is cancelled", async (t) => {
  const rig = await run(t, ({ registered }) => {
    // Left by a server that was killed.
    registered.push("dates.step-7", "other.step-7");
    return {};
  });
  await rig.end();
  t.same(rig.registered, ["other.step-7", "dates.step-1", "dates"]);

  const cancelled = await run(t, () => ({ parts: { mayRun: () => false } }));
  cancelled.registered.push("dates.step-7", "other.step-7");
  await cancelled.service.cancel("ann", cancelled.job.id);
  t.same(cancelled.registered, ["other.step-7"]);
});

t.test("a claim that is lost while it trains: the process is ended, and nothing is registered", async (t) => {
  const lost = new Set<string>();
  const rig = await run(t, ({ store, job }) => ({
    store: {
      progress: async (claim, progress, now) => {
        if (progress.step === 2) lost.add(claim.id);
        return lost.has(claim.id) ? { kept: false, dayTokens: 0 } : store.progress(claim, progress, now);
      },
      // Another replica's, from now on.
      waiting: async (...args) => (lost.has(job.id) ? [] : store.waiting(...args)),
      leaveFolder: async (user, id) => {
        await store.leaveFolder(user, id);
        await store.cancel(user, id, NOW);
      },
    },
  }));
  t.match(await rig.end(), { status: "cancelled" });
  t.same(rig.registered, ["dates.step-1"]);
  t.same(rig.ended, []);
});

t.test("of a job's checkpoints only those are removed that nobody has replaced", async (t) => {
  const registry = new FakeRegistry();
  const { unregister, registeredBy } = checkpointsIn(registry);
  const job = { user: "ann", id: "ftjob-1" };
  const put = (name: string, by: string, id: number): Promise<unknown> =>
    registry.register({ user: "ann", name }, { kind: "hard", ids: Int32Array.of(id) }, { by });
  const names = ["a.step-1", "a.step-2", "a.step-3"];
  for (const name of names) await put(name, job.id, 1);
  await put("a.step-1", "key-of-ann", 2);
  await put("a.step-2", "ftjob-2", 2);
  t.same(await registeredBy(job, "a.step-"), ["a.step-3"]);
  for (const name of names) await unregister(job, name);
  t.same([...registry.entries.keys()], ["ann/a.step-1", "ann/a.step-2"]);
  await unregister(job, "a.step-3");

  await put("a.step-4", job.id, 1);
  const find = registry.find.bind(registry);
  registry.find = async (key) => {
    const found = await find(key);
    await put("a.step-4", "key-of-ann", 2);
    return found;
  };
  await unregister(job, "a.step-4");
  t.ok(registry.entries.has("ann/a.step-4"), "replaced while it was looked at");
});

t.test("a file that is being read when its user is removed is read no further, and no other is", async (t) => {
  const { store, service, end } = await run(t, () => ({}));
  await end();
  const [file, other] = [await putFile(store, "ann", "a".repeat(600)), await putFile(store, "bob", "b")];
  const [content, others] = [await service.content(file), await service.content(other)];
  await service.endOfUser("ann");
  t.ok(content.destroyed);
  t.equal(await text(others), "b");
  await t.rejects(service.content(file), { code: "training_file_not_found" });
});
