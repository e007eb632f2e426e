import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import type { Test } from "tap";
import { timedId } from "../../src/training/jobs/ids.ts";
import { STATE } from "../../src/training/jobs/protocol.ts";
import type { Claim, TrainingStore } from "../../src/training/jobs/store.ts";
import type { TrainingFile, TrainingJob } from "../../src/training/jobs/types.ts";

/** A store's monotonic clock, in milliseconds, and when claims lapse by it. */
export const CONTRACT_CLOCK = { now: 0 };
export const CONTRACT_CLAIM_MS = 1000;

/** Opens a store with these two; every call uses the same data. */
export type OpenTrainingStore = () => Promise<TrainingStore>;

export const NOW = Date.parse("2026-01-31T12:00:00Z");
const DAY = 86_400_000;
export const QUOTA = { jobs: 2, bytes: 1000, tokensPerDay: 100 };

export const trainingJob = (user: string, at = NOW, change: Partial<TrainingJob> = {}): TrainingJob => ({
  id: timedId("ftjob", at),
  user,
  name: "dates",
  base: "f".repeat(64),
  trainingFile: "file-x",
  validationFile: null,
  settings: {
    kind: "prefix",
    virtualTokens: 4,
    hidden: null,
    batchSize: 8,
    steps: 10,
    epochs: null,
    rateFactor: 1,
    initText: null,
    seed: 1,
  },
  metadata: { team: "a" },
  status: "queued",
  createdAt: at,
  finishedAt: null,
  error: null,
  step: 0,
  steps: null,
  tokens: 0,
  attempts: 0,
  ...change,
});

/** Stores a file with this content. */
export async function putFile(
  store: TrainingStore,
  user: string,
  content: string,
  at = NOW,
  quota = QUOTA,
): Promise<TrainingFile> {
  const incoming = await store.receive(user);
  await incoming.write(Buffer.from(content));
  const file = { id: timedId("file", at), user, filename: "a.jsonl", bytes: incoming.bytes, createdAt: at };
  try {
    await store.putFile(file, incoming, quota);
  } catch (error) {
    await incoming.discard();
    throw error;
  }
  return file;
}

/** The contract of every TrainingStore. `make` prepares empty data; it may register teardowns on `t`. */
export function trainingStoreContract(t: Test, make: (t: Test) => Promise<OpenTrainingStore>): void {
  const withStore = (name: string, body: (t: Test, store: TrainingStore) => Promise<void>): void => {
    void t.test(name, async (t) => {
      const store = await (await make(t))();
      t.teardown(() => store.close());
      await body(t, store);
    });
  };
  const all = { limit: 100, order: "asc" } as const;
  const claimOf = ({ user, id }: TrainingJob, holder: string): Claim => ({ user, id, holder });
  const waitingIds = async (store: TrainingStore, holder = "nobody", now = NOW): Promise<string[]> =>
    (await store.waiting(QUOTA, now, holder)).map(({ job }) => job.id);

  withStore("what does not exist", async (t, store) => {
    t.equal(await store.getFile("ann", "file-x"), null);
    t.same(await store.listFiles("ann", all), []);
    t.equal(await store.deleteFile("ann", "file-x"), false);
    t.equal(await store.storedBytes("ann"), 0);
    t.equal(await store.getJob("ann", "ftjob-x"), null);
    t.same(await store.listJobs("ann", all), []);
    t.same(await store.waiting(QUOTA, NOW, "a"), []);
    const claim = { user: "ann", id: "ftjob-x", holder: "a" };
    t.equal(await store.claim(claim), null);
    t.equal(await store.seal(claim), false);
    t.equal(await store.end(claim, { status: "succeeded", error: null }, NOW), false);
    await store.release(claim);
    t.equal(await store.cancel("ann", "ftjob-x", NOW), null);
    t.same(await store.progress(claim, { spent: 5, step: 9 }, NOW), { kept: false, dayTokens: 0 });
    await store.addCheckpoint("ann", "ftjob-x", { createdAt: NOW, step: 1, name: "a", loss: 1, accuracy: 1 });
    t.same(await store.listCheckpoints("ann", "ftjob-x", all), []);
    await store.addEvent("ann", "ftjob-x", { createdAt: NOW, level: "info", message: "a", data: null });
    t.same(await store.listEvents("ann", "ftjob-x", all), []);
    t.same(await store.deleteUser("ann"), { files: 0, jobs: 0, bytes: 0 });
    t.same(await store.counts(), { queued: 0, running: 0 });
    await store.leaveFolder("ann", "ftjob-x");
    await store.ping();
  });

  withStore("files: kept, paged, limited, deleted", async (t, store) => {
    const [one, two] = [await putFile(store, "ann", "x".repeat(600)), await putFile(store, "ann", "yy", NOW + 1)];
    const other = await putFile(store, "ann-b", "zzz");
    t.same(await store.getFile("ann", one.id), one);
    t.equal(await store.getFile("bob", one.id), null, "another user's");
    t.equal(await text(await store.contentOf(two)), "yy");
    t.same(await store.listFiles("ann", all), [one, two]);
    t.same(await store.listFiles("ann", { limit: 1, order: "desc" }), [two]);
    t.same(await store.listFiles("ann", { limit: 9, order: "desc", after: two.id }), [one]);
    t.same(await store.listFiles("ann", { limit: 9, order: "asc", after: one.id }), [two]);
    t.same(await store.listFiles("ann", { limit: 9, order: "desc", after: "~" }), [two, one], "no other user's");
    t.equal(await store.storedBytes("ann"), 602);
    await t.rejects(putFile(store, "ann", "x".repeat(399)), { code: "training_quota_exceeded" });
    await putFile(store, "ann", "x".repeat(398), NOW + 2);
    t.equal(await store.deleteFile("bob", one.id), false);
    t.equal(await store.deleteFile("ann", one.id), true);
    await t.rejects(store.contentOf(one), { code: "training_file_not_found" });
    t.equal(await text(await store.contentOf(other)), "zzz");
    t.equal(await store.storedBytes("ann"), 400);
    const job = trainingJob("ann");
    await store.createJob(job, QUOTA, NOW);
    const { path } = await store.folderOf("ann", job.id);
    t.equal(readFileSync(await store.dataIn(path, two), "utf8"), "yy", "for the process that trains");
  });

  withStore(
    "a file that is deleted while it is read ends with an error, after nothing but its content",
    async (t, store) => {
      const remove = [(file: TrainingFile) => store.deleteFile("ann", file.id), () => store.deleteUser("ann")];
      for (const [i, removeIt] of remove.entries()) {
        const file = await putFile(store, "ann", "x".repeat(2 << 20), NOW + i, { ...QUOTA, bytes: 1e9 });
        let [read, wrong] = [0, 0];
        await t.rejects(
          async () => {
            for await (const bytes of await store.contentOf(file)) {
              if (read === 0) await removeIt(file);
              read += (bytes as Buffer).length;
              wrong += (bytes as Buffer).filter((byte) => byte !== 0x78).length;
            }
          },
          { code: "training_file_not_found" },
        );
        t.equal(wrong, 0);
        t.ok(read > 0 && read < file.bytes, `${read} bytes`);
      }
    },
  );

  withStore("jobs: created, limited, paged, cancelled", async (t, store) => {
    const [one, two] = [trainingJob("ann"), trainingJob("ann", NOW + 1)];
    for (const job of [one, two]) await store.createJob(job, QUOTA, NOW);
    await t.rejects(store.createJob(trainingJob("ann", NOW + 2), QUOTA, NOW), { code: "training_quota_exceeded" });
    await store.createJob(trainingJob("bob"), QUOTA, NOW);
    t.same(await store.getJob("ann", one.id), one);
    t.equal(await store.getJob("bob", one.id), null);
    t.same(await store.listJobs("ann", { limit: 9, order: "desc" }), [two, one]);
    t.same(await store.counts(), { queued: 3, running: 0 });
    t.equal(await store.cancel("bob", one.id, NOW), null);
    t.match(await store.cancel("ann", one.id, NOW + 5), { status: "cancelled", finishedAt: NOW + 5 });
    await t.rejects(store.cancel("ann", one.id, NOW), { code: "training_job_ended" });
    t.equal(await store.claim(claimOf(one, "a")), null, "an ended job cannot be claimed");
    await store.createJob(trainingJob("ann", NOW + 2), QUOTA, NOW);
  });

  withStore("a claim holds until it lapses, is let go of, or the job is taken away", async (t, store) => {
    const job = trainingJob("ann");
    await store.createJob(job, QUOTA, NOW);
    const second = trainingJob("ann", NOW + 1);
    await store.createJob(second, QUOTA, NOW);
    t.same(await waitingIds(store), [job.id], "the oldest of each user");
    t.match(await store.claim(claimOf(job, "a")), { status: "validating_files", attempts: 1 });
    t.equal(await store.claim(claimOf(job, "b")), null);
    t.same(await store.waiting(QUOTA, NOW, "b"), [{ job: second, running: 1 }]);
    t.same(await store.waiting(QUOTA, NOW, "a"), [{ job: await store.getJob("ann", job.id), running: 0 }], "its own");
    t.same(await store.counts(), { queued: 1, running: 1 });
    CONTRACT_CLOCK.now += CONTRACT_CLAIM_MS - 1;
    const told = await store.progress(claimOf(job, "a"), { status: "running", step: 3, steps: 9, tokens: 30 }, NOW);
    t.equal(told.kept, true);
    t.match(await store.getJob("ann", job.id), { status: "running", step: 3, steps: 9, tokens: 30, attempts: 0 });
    t.same(await waitingIds(store), [second.id]);
    CONTRACT_CLOCK.now += CONTRACT_CLAIM_MS - 1;
    t.same(await waitingIds(store), [second.id], "it was renewed");
    t.equal(await store.claim(claimOf(job, "b")), null);
    CONTRACT_CLOCK.now += 2 * CONTRACT_CLAIM_MS;
    t.same(await waitingIds(store), [job.id], "it has lapsed");
    t.same(await store.counts(), { queued: 2, running: 0 });
    t.match(await store.claim(claimOf(job, "b")), { attempts: 1, step: 3 });
    await store.progress(claimOf(job, "b"), { step: 2 }, NOW);
    await store.progress(claimOf(job, "b"), { step: 3 }, NOW);
    t.match(await store.getJob("ann", job.id), { step: 3, attempts: 1 }, "repeated steps are no progress");
    t.equal((await store.progress(claimOf(job, "a"), {}, NOW)).kept, false);
    t.equal(await store.end(claimOf(job, "a"), { status: "succeeded", error: null }, NOW), false);
    const triggers = { ids: [3, 1], text: "\"é' " };
    await store.progress(claimOf(job, "b"), { triggers: { ids: [7], text: null } }, NOW);
    await store.progress(claimOf(job, "b"), { triggers }, NOW);
    await store.progress(claimOf(job, "b"), { step: 3 }, NOW);
    await store.progress(claimOf(job, "a"), { triggers: { ids: [8], text: null } }, NOW);
    t.same((await store.getJob("ann", job.id))?.triggers, triggers, "the last that its holder told of");
    await store.release(claimOf(job, "a"));
    t.equal(await store.claim(claimOf(job, "a")), null, "only its holder lets go of it");
    await store.release(claimOf(job, "b"));
    t.equal((await store.getJob("ann", job.id))?.status, "queued");
    t.match(await store.claim(claimOf(job, "a")), { attempts: 2 });
    await store.progress(claimOf(job, "a"), { step: 4 }, NOW);
    t.match(await store.getJob("ann", job.id), { step: 4, attempts: 0 });
    await store.cancel("ann", job.id, NOW);
    t.equal((await store.progress(claimOf(job, "a"), {}, NOW)).kept, false);
    t.equal((await store.getJob("ann", job.id))?.status, "cancelled");
  });

  withStore("an end is final", async (t, store) => {
    const job = trainingJob("ann");
    await store.createJob(job, QUOTA, NOW);
    await store.claim(claimOf(job, "a"));
    const error = { code: "diverged", message: "It did.", param: null };
    t.equal(await store.end(claimOf(job, "a"), { status: "failed", error }, NOW + 7), true);
    t.match(await store.getJob("ann", job.id), { status: "failed", error, finishedAt: NOW + 7 });
    t.same(await waitingIds(store, "a", NOW + DAY), []);
    t.same(await store.counts(), { queued: 0, running: 0 });
    t.equal((await store.progress(claimOf(job, "a"), {}, NOW)).kept, false);
    t.equal(await store.seal(claimOf(job, "a")), false);
  });

  withStore("what is being registered cannot be cancelled, nor what was cancelled registered", async (t, store) => {
    const [one, two] = [trainingJob("ann"), trainingJob("ann", NOW + 1)];
    for (const job of [one, two]) await store.createJob(job, QUOTA, NOW);
    for (const job of [one, two]) await store.claim(claimOf(job, "a"));
    t.equal(await store.seal(claimOf(one, "b")), false, "another replica's");
    t.equal(await store.seal(claimOf(one, "a")), true);
    await t.rejects(store.cancel("ann", one.id, NOW), { code: "training_job_ended", message: /is being registered/ });
    await store.release(claimOf(one, "a"));
    await t.rejects(store.cancel("ann", one.id, NOW), { code: "training_job_ended" }, "it may be registered already");
    await store.claim(claimOf(one, "b"));
    t.equal(await store.end(claimOf(one, "b"), { status: "succeeded", error: null }, NOW), true);
    await store.cancel("ann", two.id, NOW);
    t.equal(await store.seal(claimOf(two, "a")), false);
    t.equal(await store.end(claimOf(two, "a"), { status: "succeeded", error: null }, NOW), false);
  });

  withStore("a state that was kept is there for whoever goes on", async (t, store) => {
    const job = trainingJob("ann");
    await store.createJob(job, QUOTA, NOW);
    await store.claim(claimOf(job, "a"));
    const first = await store.folderOf("ann", job.id);
    t.same(first, { path: first.path, isStateLost: false });
    t.notOk(existsSync(join(first.path, STATE)));
    for (const state of ["one", "two".repeat(1000)]) {
      writeFileSync(join(first.path, STATE), state);
      t.equal(await store.keepState(claimOf(job, "a"), first.path), true);
    }
    await store.release(claimOf(job, "a"));
    await store.leaveFolder("ann", job.id);
    await store.claim(claimOf(job, "b"));
    const { path, isStateLost } = await store.folderOf("ann", job.id);
    t.equal(isStateLost, false);
    t.equal(readFileSync(join(path, STATE), "utf8"), "two".repeat(1000));
    await store.cancel("ann", job.id, NOW);
    await store.leaveFolder("ann", job.id);
    t.notOk(existsSync(path));
  });

  withStore("tokens of a day: nothing begins until the next", async (t, store) => {
    const job = trainingJob("ann");
    await store.createJob(job, QUOTA, NOW);
    await store.claim(claimOf(job, "a"));
    t.equal((await store.progress(claimOf(job, "a"), { tokens: 60, spent: 60 }, NOW)).dayTokens, 60);
    t.equal((await store.progress(claimOf(job, "a"), { tokens: 60, spent: 60 }, NOW)).dayTokens, 60, "told twice");
    t.equal((await store.progress(claimOf(job, "a"), { tokens: 80, spent: 80 }, NOW)).dayTokens, 80);
    await store.release(claimOf(job, "a"));
    t.same(await waitingIds(store), [job.id]);
    await store.claim(claimOf(job, "b"));
    t.equal((await store.progress(claimOf(job, "a"), { spent: 99 }, NOW)).dayTokens, 80, "nobody's");
    t.equal((await store.progress(claimOf(job, "b"), { spent: 30 }, NOW)).dayTokens, 110, "of another claim");
    await store.release(claimOf(job, "b"));
    t.same(await waitingIds(store), []);
    t.same(await waitingIds(store, "a", NOW + DAY), [job.id]);
    await t.rejects(store.createJob(trainingJob("ann", NOW + 1), QUOTA, NOW), { code: "training_quota_exceeded" });
    await store.createJob(trainingJob("bob"), QUOTA, NOW);
  });

  withStore("events and checkpoints are the job's", async (t, store) => {
    const [job, other] = [trainingJob("ann"), trainingJob("ann", NOW + 1)];
    for (const one of [job, other]) await store.createJob(one, QUOTA, NOW);
    for (const message of ["a", "b", "c"])
      await store.addEvent("ann", job.id, { createdAt: NOW, level: "info", message, data: { message } });
    await store.addEvent("bob", job.id, { createdAt: NOW, level: "info", message: "d", data: null });
    const events = await store.listEvents("ann", job.id, all);
    t.same(
      events.map(({ message }) => message),
      ["a", "b", "c"],
    );
    t.same(await store.listEvents("ann", job.id, { limit: 9, order: "desc", after: events[2]!.id }), [
      events[1],
      events[0],
    ]);
    t.same(await store.listEvents("bob", job.id, all), []);
    t.same(await store.listEvents("ann", other.id, all), []);
    const checkpoint = { createdAt: NOW, step: 5, name: "dates.step-5", loss: 1.5, accuracy: 0.5 };
    await store.addCheckpoint("ann", job.id, checkpoint);
    const [kept] = await store.listCheckpoints("ann", job.id, all);
    t.match(kept, checkpoint);
    await store.deleteCheckpoint("ann", job.id, kept!.id);
    t.same(await store.listCheckpoints("ann", job.id, all), []);
  });

  withStore("a removed user leaves nothing, others stay whole", async (t, store) => {
    const folders: string[] = [];
    for (const user of ["ann", "ann-b"]) {
      const job = trainingJob(user);
      await putFile(store, user, `secret of ${user}`);
      await store.createJob(job, QUOTA, NOW);
      await store.claim(claimOf(job, "a"));
      await store.progress(claimOf(job, "a"), { spent: 200, tokens: 200 }, NOW);
      await store.addEvent(user, job.id, { createdAt: NOW, level: "info", message: "m", data: null });
      const { path } = await store.folderOf(user, job.id);
      writeFileSync(join(path, STATE), "state");
      await store.keepState(claimOf(job, "a"), path);
      folders.push(path);
    }
    const [job] = await store.listJobs("ann", all);
    const arriving = await store.receive("ann");
    await arriving.write(Buffer.from("half"));
    t.same(await store.deleteUser("ann"), { files: 1, jobs: 1, bytes: "secret of ann".length });
    t.same(await store.listFiles("ann", all), []);
    t.same(await store.listJobs("ann", all), []);
    t.same(await store.listEvents("ann", job!.id, all), []);
    await store.leaveFolder("ann", job!.id);
    t.same(folders.map(existsSync), [false, true]);
    const late = { id: timedId("file", NOW), user: "ann", filename: "a", bytes: 4, createdAt: NOW };
    await t.rejects(store.putFile(late, arriving, QUOTA), "what was arriving is gone");
    await arriving.discard();
    const progress = await store.progress(claimOf(job!, "a"), { spent: 5, step: 9 }, NOW);
    t.same(progress, { kept: false, dayTokens: 0 });
    await store.createJob(trainingJob("ann", NOW + 1), QUOTA, NOW);
    t.equal((await store.listFiles("ann-b", all)).length, 1);
    t.match(await store.listEvents("ann-b", (await store.listJobs("ann-b", all))[0]!.id, all), [{ message: "m" }]);
  });
}
