import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import t from "tap";
import { createLmdbTrainingStore } from "../../src/lmdb/training-store.ts";
import {
  CONTRACT_CLAIM_MS,
  CONTRACT_CLOCK,
  NOW,
  putFile,
  QUOTA,
  trainingJob,
  trainingStoreContract,
} from "../contract/training-store.ts";
import { trainingStoreInThread } from "../support/training-store.ts";

t.test("LMDB keeps the contract", (t) => {
  trainingStoreContract(t, async (t) => {
    const dir = mkdtempSync(join(t.testdir(), "lmdb."));
    return async () => trainingStoreInThread(dir, { claimMs: CONTRACT_CLAIM_MS, clock: () => CONTRACT_CLOCK.now });
  });
  t.end();
});

/** Every byte below a folder, as one string. */
function bytesBelow(dir: string): string {
  const files = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.map((entry) => readFileSync(join(entry.parentPath, entry.name), "latin1")).join("\n");
}

t.test("on its thread: what is stored outlives it, held jobs wait again, leftovers of a crash go", async (t) => {
  const dir = t.testdir();
  const store = createLmdbTrainingStore({ dir });
  const file = await putFile(store, "ann", "content");
  const [held, ended] = [trainingJob("ann"), trainingJob("ann", NOW + 1)];
  for (const job of [held, ended]) await store.createJob(job, QUOTA, NOW);
  await store.claim({ user: "ann", id: held.id, holder: "a" });
  t.same(await store.counts(), { queued: 1, running: 1 });
  const folders: string[] = [];
  for (const { id } of [held, ended]) folders.push((await store.folderOf("ann", id)).path);
  await store.cancel("ann", ended.id, NOW);
  const half = await store.receive("ann");
  await half.write(Buffer.from("half of a file"));
  await store.close();
  const stray = join(folders[0]!, "..", "..", "files", "file-unknown");
  writeFileSync(stray, "no record names it");

  const again = createLmdbTrainingStore({ dir });
  t.teardown(() => again.close());
  t.equal((await again.getJob("ann", held.id))?.status, "queued");
  t.equal((await again.getJob("ann", ended.id))?.status, "cancelled");
  t.equal(await text(await again.contentOf(file)), "content");
  t.same([...folders, stray].map(existsSync), [true, false, false]);
  t.same(readdirSync(join(dir, "training", "incoming")), []);
  await half.discard();
});

t.test("no byte of a removed user stays in the folder", async (t) => {
  const dir = t.testdir();
  const store = trainingStoreInThread(dir);
  t.teardown(() => store.close());
  for (const user of ["keeper", "doomed-user"]) {
    await putFile(store, user, `content of ${user}`);
    const job = trainingJob(user, NOW, { metadata: { owner: `metadata of ${user}` } });
    await store.createJob(job, QUOTA, NOW);
    const { path } = await store.folderOf(user, job.id);
    mkdirSync(join(path, "result"));
    writeFileSync(join(path, "result", "a"), `result of ${user}`);
    await store.addEvent(user, job.id, { createdAt: NOW, level: "info", message: `event of ${user}`, data: null });
  }
  t.match(bytesBelow(dir), /content of doomed-user/, "the scan finds what is there");
  await store.deleteUser("doomed-user");
  t.notMatch(bytesBelow(dir), /doomed-user/);
  for (const what of ["content", "result", "event", "metadata"])
    t.match(bytesBelow(dir), new RegExp(`${what} of keeper`));
});
