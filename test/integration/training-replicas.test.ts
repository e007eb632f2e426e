/** Training on two replicas that share a Redis: whichever trains a job may be killed, cut off, or told to stop by the other one. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { eventually } from "../support/fault-client.ts";
import { startRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";
import {
  ADMIN_KEY,
  admin,
  beyond,
  clientOf,
  createJob,
  DATA,
  digestOf,
  ended,
  isAlive,
  messages,
  newUser,
  uploaded,
} from "../support/training-client.ts";

skipFileWithout(t, "redis-server");

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const cache = join(folder.path, "cache");
const redis = await startRedis();
t.teardown(() => redis.stop());
const start = (): Promise<TestServer> =>
  startServerProcess(
    [
      ...["--model", "models/demo", "--store", redis.url, "--cache-dir", cache, "--threads", "1"],
      ...["--training", "on", "--train-threads", "1", "--train-nice", "1"],
    ],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
const servers: TestServer[] = [await start(), await start()];
t.teardown(() => servers.forEach((server) => server.signal("SIGKILL")));
const otherThan = (server: TestServer): TestServer => servers.find((one) => one !== server)!;
/** Folders of jobs that are being worked on. */
const worked = (): string[] =>
  readdirSync(join(cache, "training")).flatMap((process) =>
    readdirSync(join(cache, "training", process), { withFileTypes: true }).flatMap((entry) =>
      entry.isDirectory() ? entry.name : [],
    ),
  );
const keysWith = async (text: string): Promise<string[]> => (await redis.command("KEYS", `*${text}*`)) as string[];
const gone = async (pid: number): Promise<void> => {
  while (isAlive(pid)) await sleep(20);
};

/** Also one that its stopped parent has not waited for: it does nothing any more. */
async function hasEnded(pid: number): Promise<boolean> {
  const state = (): string => {
    try {
      return readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]![0]!;
    } catch {
      return "";
    }
  };
  while (state() !== "" && state() !== "Z") await sleep(20);
  return true;
}

t.setTimeout(240_000);
const [first, second] = servers as [TestServer, TestServer];
const ann = await newUser(first, "ann");
let whole: string | undefined;

t.test("a file uploaded to one replica is trained on by any, and its prefix is everywhere", async (t) => {
  const openai = clientOf(first, ann);
  const file = await uploaded(openai);
  t.equal(await (await clientOf(second, ann).files.content(file)).text(), DATA);
  const created = await createJob(openai, file, { suffix: "words" });
  const job = await ended(clientOf(second, ann), created);
  t.match(job, { status: "succeeded", error: null, fine_tuned_model: /^ft-words-[0-9a-f]{8}$/ });
  const { data } = await openai.fineTuning.jobs.checkpoints.list(job.id);
  t.same(
    data.map(({ step_number }) => step_number),
    [40, 35, 30],
  );
  for (const server of servers) {
    const request = { model: job.fine_tuned_model!, prompt: "blue red\n=>", max_tokens: 4, temperature: 0 };
    t.ok((await clientOf(server, ann).completions.create(request)).choices[0]!.text.length > 0);
  }
  whole = await digestOf(second, ann, job.fine_tuned_model!);
  t.ok(whole);
  while (worked().length > 0) await sleep(20);
  t.same(await keysWith("blob:"), await keysWith("{ann}:training:blob:"), "nobody else's");
  t.equal((await keysWith("blob:")).length, 1, "the file is all that is kept");
  await openai.files.delete(file);
  t.same(await keysWith("blob:"), []);
});

t.test("kill -9 of the replica that trains: the other one goes on to the same bits", async (t) => {
  const openai = clientOf(first, ann);
  const job = await createJob(openai, await uploaded(openai), { prefix_id: "killed" });
  const { server, pid } = await beyond(servers, openai, job, 15);
  server.signal("SIGKILL");
  await server.exited;
  await gone(pid);
  t.equal(worked().length, 1, "what it worked on lies there");
  const left = otherThan(server);
  const over = ended(clientOf(left, ann), job);
  servers[servers.indexOf(server)] = await start();
  t.match(await over, { status: "succeeded", fine_tuned_model: "killed" });
  const said = await messages(clientOf(left, ann), job);
  t.ok(said.some((text) => /^Fine-tuning job goes on after step \d+$/.test(text)));
  t.equal(said.filter((text) => text.startsWith("New fine-tuned model created")).length, 1);
  t.equal(await digestOf(left, ann, "killed"), whole);
  while (worked().length > 0) await sleep(20);
  t.pass("until a replica starts there");
});

t.test("a replica that hangs: its process ends with the claim, and when it wakes it registers nothing", async (t) => {
  const openai = clientOf(servers[0]!, ann);
  const job = await createJob(openai, await uploaded(openai), { prefix_id: "hung" });
  const { server, pid } = await beyond(servers, openai, job, 15);
  server.signal("SIGSTOP");
  const other = clientOf(otherThan(server), ann);
  t.match(await ended(other, job), { status: "succeeded", fine_tuned_model: "hung" });
  t.equal(await digestOf(otherThan(server), ann, "hung"), whole);
  t.ok(await hasEnded(pid));
  server.signal("SIGCONT");
  while (worked().length > 0) await sleep(20);
  const said = await messages(other, job);
  t.equal(said.filter((text) => text.startsWith("New fine-tuned model created")).length, 1);
  t.equal(said.at(-1), "The job has successfully completed");
});

t.test("cancelled by the other replica: its process is gone, and nothing is registered", async (t) => {
  const openai = clientOf(servers[0]!, ann);
  const file = await uploaded(openai);
  const job = await createJob(openai, file, { prefix_id: "cancelled" });
  const { server, pid } = await beyond(servers, openai, job, 0);
  const other = clientOf(otherThan(server), ann);
  t.match(await other.fineTuning.jobs.cancel(job.id), { status: "cancelled", fine_tuned_model: null });
  t.notOk(isAlive(pid));
  t.equal(await digestOf(server, ann, "cancelled"), undefined);
  // A state that was on its way to the store is dropped when it has arrived.
  const files = (await openai.files.list()).data.length;
  await eventually(async () => (await keysWith("blob:")).length === files);
  t.same(worked(), []);
});

t.test("removed by the other replica: nothing of the user is left, in Redis or where it was trained", async (t) => {
  const openai = clientOf(servers[0]!, await newUser(servers[0]!, "doomed"));
  const file = await uploaded(openai);
  const job = await createJob(openai, file, { suffix: "its" });
  const { server, pid } = await beyond(servers, openai, job, 10);
  t.match(await admin(otherThan(server), "DELETE", "/users/doomed"), {
    user: "doomed",
    removed: { training_files: 1, training_jobs: 1, training_bytes: Buffer.byteLength(DATA) },
  });
  t.notOk(isAlive(pid));
  t.same(worked(), []);
  t.same(await keysWith("doomed"), ["prefixd:{doomed}:removed"], "which expires");
  t.same(await redis.command("ZRANGE", "prefixd:training-users", "0", "-1"), ["ann"]);
});

t.test("cut off from Redis: training ends with the lease, and goes on when Redis is back", async (t) => {
  const openai = clientOf(servers[0]!, ann);
  const job = await createJob(openai, await uploaded(openai), { prefix_id: "cut-off" });
  const { pid } = await beyond(servers, openai, job, 15);
  redis.signal("SIGSTOP");
  await gone(pid);
  while (worked().length > 0) await sleep(20);
  t.pass("nothing of it is left where nobody can say that its user is removed");
  redis.signal("SIGCONT");
  const back = async (): Promise<boolean> => (await fetch(`${servers[0]!.url}/health/ready`)).ok;
  while (!(await back())) await sleep(50);
  t.match(await ended(openai, job), { status: "succeeded", fine_tuned_model: "cut-off" });
  t.equal(await digestOf(servers[0]!, ann, "cut-off"), whole);
  const said = await messages(openai, job);
  t.equal(said.filter((text) => text.startsWith("New fine-tuned model created")).length, 1);
});
