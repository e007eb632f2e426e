import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import t, { type Test } from "tap";
import type { PrefixStore } from "../../src/prefixes/store.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { openRedisTrainingStore } from "../../src/redis/training-store.ts";
import { STATE } from "../../src/training/jobs/protocol.ts";
import { CLAIM_MS, type Claim, type TrainingStore } from "../../src/training/jobs/store.ts";
import type { TrainingJob } from "../../src/training/jobs/types.ts";
import { WorkFolders } from "../../src/training/jobs/work-folders.ts";
import { contractOnRedis } from "../contract/on-redis.ts";
import {
  CONTRACT_CLAIM_MS,
  CONTRACT_CLOCK,
  NOW,
  putFile,
  QUOTA,
  trainingJob,
  trainingStoreContract,
} from "../contract/training-store.ts";
import { record } from "../prefixes/records.ts";
import { eventually } from "../support/fault-client.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { temporaryFolder } from "../support/server.ts";
import { TRAINING_QUOTA, trainingOn } from "../support/training-store.ts";

skipFileWithout(t, "redis-server");

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const work = new WorkFolders(folder.path);

contractOnRedis(trainingStoreContract, (at) =>
  openRedisTrainingStore({ ...at, work, claimMs: CONTRACT_CLAIM_MS, clock: () => CONTRACT_CLOCK.now, chunkBytes: 500 }),
);

interface Rig {
  readonly redis: TestRedis;
  /** A replica's. */
  readonly open: (options?: Partial<Parameters<typeof openRedisTrainingStore>[0]>) => Promise<TrainingStore>;
  readonly prefixes: PrefixStore;
  readonly keys: (pattern: string) => Promise<string[]>;
}

async function rig(t: Test, ...args: string[]): Promise<Rig> {
  const redis = await startRedis(...args);
  t.teardown(() => redis.stop());
  const prefixes = await openRedisStore({ url: redis.url });
  t.teardown(() => prefixes.close());
  return {
    redis,
    prefixes,
    keys: async (pattern) => ((await redis.command("KEYS", pattern)) as string[]).sort(),
    open: async (options) => {
      const store = await openRedisTrainingStore({ url: redis.url, work, chunkBytes: 100, ...options });
      t.teardown(() => store.close());
      return store;
    },
  };
}

/** A claimed job of ann's with a kept state. */
async function claimed(
  store: TrainingStore,
  holder: string,
  state: string,
): Promise<{ job: TrainingJob; claim: Claim; path: string }> {
  const job = trainingJob("ann");
  await store.createJob(job, QUOTA, NOW);
  const claim = { user: "ann", id: job.id, holder };
  await store.claim(claim);
  const { path } = await store.folderOf("ann", job.id);
  writeFileSync(join(path, STATE), state);
  if (!(await store.keepState(claim, path))) throw new Error("not kept");
  return { job, claim, path };
}

t.test("a claim taken over by another replica: its former holder keeps and registers nothing", async (t) => {
  const { open, prefixes } = await rig(t);
  let now = 0;
  const [one, two] = [await open({ clock: () => now }), await open({ clock: () => now })];
  const { job, claim, path } = await claimed(one, "one", "state of one");
  const other = { ...claim, holder: "two" };
  await two.waiting(QUOTA, NOW, "two");
  now = 1.1 * CLAIM_MS;
  t.equal(await two.claim(other), null, "clocks may run at different speeds");
  now = 1.3 * CLAIM_MS;
  t.match(await two.claim(other), { id: job.id, attempts: 2 });
  const put = await record({ user: "ann", name: "dates" }, 1);
  await t.rejects(prefixes.put(put, { claim }), { code: "precondition_failed" });
  t.equal((await one.progress(claim, { step: 9 }, NOW)).kept, false);
  writeFileSync(join(path, STATE), "a later state of one");
  t.equal(await one.keepState(claim, path), false);
  t.equal(await one.seal(claim), false);
  t.equal(await one.end(claim, { status: "succeeded", error: null }, NOW), false);
  t.equal(readFileSync(join((await two.folderOf("ann", job.id)).path, STATE), "utf8"), "state of one");

  t.equal(await two.seal(other), true);
  t.match(await prefixes.put(put, { claim: other }), { created: true });
  t.equal(await two.end(other, { status: "succeeded", error: null }, NOW), true);
  t.equal(await two.end(other, { status: "succeeded", error: null }, NOW), true, "told again after a lost answer");
  await prefixes.delete(put.meta);
  await t.rejects(prefixes.put(put, { claim }), { code: "precondition_failed" });
  t.equal(await prefixes.head(put.meta), null, "what its user has deleted does not come back");
});

t.test("a cancelled job cannot register any more, whoever holds it", async (t) => {
  const { open, prefixes } = await rig(t);
  const store = await open();
  const { claim } = await claimed(store, "one", "state");
  await store.cancel("ann", claim.id, NOW);
  const put = await record({ user: "ann", name: "dates" }, 1);
  await t.rejects(prefixes.put(put, { claim }), { code: "precondition_failed" });
  t.equal(await prefixes.head(put.meta), null);
});

t.test("what Redis has lost or changed is told, never used", async (t) => {
  const { redis, open, keys } = await rig(t);
  const store = await open();
  const content = "0123456789".repeat(25);
  const file = await putFile(store, "ann", content);
  const [fileKey] = await keys("*:blob:*");
  const { job } = await claimed(store, "one", content);
  const stateKey = (await keys("*:blob:*")).find((key) => key !== fileKey);
  const { path } = await store.folderOf("ann", job.id);
  t.equal(readFileSync(await store.dataIn(path, file), "utf8"), content);
  for (const change of [["HSET", "1", "x".repeat(100)], ["HSET", "2", "x"], ["HDEL", "1"], ["DEL"]] as const) {
    const [command, ...args] = change;
    await redis.command(command, fileKey!, ...args);
    await redis.command(command, stateKey!, ...args);
    t.same(await store.folderOf("ann", job.id), { path, isStateLost: true }, change.join(" "));
    t.notOk(existsSync(join(path, STATE)));
    const lost = { code: "training_file_not_found", message: /lost a part/ };
    await t.rejects(store.dataIn(path, file), lost);
    await t.rejects(
      store.contentOf(file).then((stream) => text(stream)),
      lost,
    );
  }
});

t.test("a removed user: refused from the removal's first step on, and nothing is left", async (t) => {
  const { open, prefixes, keys } = await rig(t);
  const store = await open();
  await putFile(store, "ann", "content");
  const { job, claim, path } = await claimed(store, "one", "state");
  const arriving = await store.receive("ann");
  await arriving.write(Buffer.alloc(150));
  await prefixes.deleteUser("ann");
  const removed = { code: "removed" };
  await t.rejects(store.receive("ann"), removed);
  await t.rejects(arriving.write(Buffer.alloc(150)), removed);
  await t.rejects(store.keepState(claim, path), removed);
  await t.rejects(store.createJob(trainingJob("ann", NOW + 1), QUOTA, NOW), removed);
  t.same(await store.deleteUser("ann"), { files: 1, jobs: 1, bytes: "content".length });
  await store.addEvent("ann", job.id, { createdAt: NOW, level: "info", message: "late", data: null });
  await prefixes.deleteUser("ann", { last: true });
  t.same(await keys("*"), ["prefixd:shares-built", "prefixd:{ann}:removed"]);
});

t.test("what a process leaves that ends between two commands does not stay", async (t) => {
  const { open, keys } = await rig(t);
  let now = 0;
  const store = await open({ uploadTtlMs: 50, clock: () => now, graceMs: 1000 });
  const arriving = await store.receive("ann");
  await arriving.write(Buffer.alloc(250));
  await eventually(async () => (await keys("*")).length === 0);
  const file = { id: "file-x", user: "ann", filename: "a", bytes: 250, createdAt: NOW };
  await t.rejects(store.putFile(file, arriving, QUOTA), { code: "store_unavailable" }, "nor is it kept by halves");
  t.same(await keys("*"), []);

  // Listed, but killed before its job was created.
  const refused = { ...QUOTA, jobs: 0 };
  await t.rejects(store.createJob(trainingJob("ann"), refused, NOW), { code: "training_quota_exceeded" });
  t.same(await keys("*"), ["prefixd:training-users"]);
  t.same(await store.counts(), { queued: 0, running: 0 });
  now = 900;
  await store.counts();
  t.same(await keys("*"), ["prefixd:training-users"], "the job may be on its way");
  now = 1100;
  await store.counts();
  t.same(await keys("*"), []);
  await store.createJob(trainingJob("ann"), QUOTA, NOW);
  t.same(await store.counts(), { queued: 1, running: 0 });
});

t.test("a user who is missing in the list is listed again when a waiting job is looked at", async (t) => {
  const { redis, open } = await rig(t);
  const store = await open();
  const job = trainingJob("ann");
  await store.createJob(job, QUOTA, NOW);
  await redis.command("DEL", "prefixd:training-users");
  t.same(await store.waiting(QUOTA, NOW, "one"), []);
  await store.getJob("ann", job.id);
  t.equal((await store.waiting(QUOTA, NOW, "one")).length, 1);
});

t.test("Redis without memory: files and jobs are refused, those that are there go on and end", async (t) => {
  const { redis, open, keys } = await rig(t, "--maxmemory-policy", "noeviction");
  const store = await open({ chunkBytes: 4096 });
  const quota = { ...QUOTA, bytes: 1e9 };
  await putFile(store, "ann", "content");
  const { job, claim, path } = await claimed(store, "one", "state");
  const waiting = trainingJob("ann", NOW + 1);
  await store.createJob(waiting, QUOTA, NOW);
  await redis.command("CONFIG", "SET", "maxmemory", "1");
  const full = { code: "store_full" };
  await t.rejects(store.receive("bob"), full);
  await t.rejects(store.createJob(trainingJob("bob"), quota, NOW), full);
  writeFileSync(join(path, STATE), "a later state");
  await t.rejects(store.keepState(claim, path), full);
  await store.addEvent("ann", job.id, { createdAt: NOW, level: "info", message: "dropped", data: null });
  t.same(await store.progress(claim, { step: 5, spent: 5 }, NOW), { kept: true, dayTokens: 5 });
  await store.addCheckpoint("ann", job.id, { createdAt: NOW, step: 5, name: "a", loss: 1, accuracy: 1 });
  t.equal((await store.listCheckpoints("ann", job.id, { limit: 9, order: "asc" })).length, 1);
  t.equal(readFileSync(join((await store.folderOf("ann", job.id)).path, STATE), "utf8"), "state", "the former one");
  t.match(await store.claim({ ...claim, id: waiting.id }), { status: "validating_files" });
  t.equal(await store.seal(claim), true);
  const error = { code: "store_full", message: "Redis has no memory left.", param: null };
  t.equal(await store.end(claim, { status: "failed", error }, NOW), true);
  t.match(await store.getJob("ann", job.id), { status: "failed", error, step: 5 });
  t.match(await store.cancel("ann", waiting.id, NOW), { status: "cancelled" });
  t.equal((await keys("*:blob:*")).length, 1, "the file");
  t.equal(await store.deleteFile("ann", (await store.listFiles("ann", { limit: 1, order: "asc" }))[0]!.id), true);
  t.same(await keys("*:blob:*"), []);
});

t.test("an upload that is too large, or no data, is refused while it arrives, and nothing of it stays", async (t) => {
  const { open, keys } = await rig(t);
  const training = trainingOn(await open({ chunkBytes: 4096 }));
  const line = Buffer.from('{"prompt": "a", "completion": "b"}\n'.repeat(100));
  let sent = 0;
  const endless = async function* (piece: Buffer): AsyncGenerator<Uint8Array> {
    for (sent = 0; ; sent += piece.length) yield piece;
  };
  await t.rejects(training.receive("ann", endless(line)), { code: "training_quota_exceeded" });
  t.ok(sent <= TRAINING_QUOTA.bytes, `${sent} bytes`);
  await t.rejects(training.receive("ann", endless(Buffer.alloc(1000, "x\n"))), { code: "training_data_invalid" });
  t.same(await keys("*"), []);
});

t.test("a large file arrives and leaves in chunks, in bounded memory", async (t) => {
  const { open } = await rig(t);
  const store = await open({ chunkBytes: 1 << 19 });
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  /** What is left when the rest has been collected. */
  const look = (): void => {
    collectGarbage();
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
  };
  const arriving = await store.receive("ann");
  const piece = Buffer.alloc(100_000, "x");
  for (let i = 0; i < 640; i++) {
    await arriving.write(piece);
    if (i % 100 === 0) look();
  }
  const file = { id: "file-x", user: "ann", filename: "a", bytes: arriving.bytes, createdAt: NOW };
  await store.putFile(file, arriving, { ...QUOTA, bytes: 1e9 });
  let read = 0;
  let looks = 0;
  for await (const chunk of await store.contentOf(file)) {
    read += (chunk as Buffer).length;
    if (looks++ % 20 === 0) look();
  }
  t.equal(read, 64_000_000);
  t.ok(most < 40 << 20, `${most} bytes`);
});
