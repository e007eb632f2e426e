/** Training over HTTP, by the real program with OpenAI's client: to the end, through kills, and with its user's removal. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { getPriority } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type OpenAI from "openai";
import t from "tap";
import { LmdbTrainingTables } from "../../src/lmdb/training-tables.ts";
import { repositoryFile } from "../support/docs-block.ts";
import { ROOT } from "../support/program.ts";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";
import {
  ADMIN_KEY,
  admin,
  beyond as beyondAt,
  clientOf,
  createJob as create,
  DATA,
  digestOf as digestAt,
  ended,
  isAlive,
  messages,
  newUser,
  uploaded,
  type Job,
} from "../support/training-client.ts";

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const model = join(folder.path, "demo");
cpSync("models/demo", model, { recursive: true });
const store = join(folder.path, "store");
const start = (): Promise<TestServer> =>
  startServerProcess(
    [
      ...["--model", model, "--store", `lmdb:${store}`, "--cache-dir", join(folder.path, "cache"), "--threads", "1"],
      ...["--training", "on", "--train-threads", "1", "--train-nice", "1"],
    ],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
let server = await start();
t.teardown(() => server.signal("SIGKILL"));

/** Runs a program of ES modules where the clients are installed. */
async function ran(program: string, env: Record<string, string>): Promise<{ out: string; code: unknown }> {
  const child = spawn(process.execPath, ["--input-type=module", "-e", program], {
    cwd: ROOT,
    env: { ...process.env, NODE_OPTIONS: "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (part: string) => (out += part));
  const [code] = (await once(child, "close")) as [number | null];
  return { out, code };
}

const beyond = async (openai: OpenAI, job: Job, step: number): Promise<number> =>
  (await beyondAt([server], openai, job, step)).pid;
const digestOf = (user: { key: string }, id: string): Promise<string | undefined> => digestAt(server, user, id);

t.setTimeout(180_000);
const ann = await newUser(server, "ann");
let whole: unknown;

t.test("OpenAI's client trains a prefix and uses it, and its checkpoints", async (t) => {
  const openai = clientOf(server, ann);
  const file = await uploaded(openai);
  t.equal(await (await openai.files.content(file)).text(), DATA);
  t.same(
    (await openai.files.list()).data.map(({ id }) => id),
    [file],
  );
  const created = await create(openai, file, { suffix: "words", metadata: { team: "a" } });
  t.match(created, { object: "fine_tuning.job", model: "demo", training_file: file, fine_tuned_model: null });
  const job = await ended(openai, created);
  t.match(job, {
    status: "succeeded",
    error: null,
    triggers: null,
    metadata: { team: "a" },
    fine_tuned_model: /^ft-words-[0-9a-f]{8}$/,
  });
  t.ok(job.trained_tokens! > 40 * 4 * 4, `${job.trained_tokens} tokens`);
  t.ok(job.finished_at! >= job.created_at);
  const said = await messages(openai, job);
  for (const what of [
    `Created fine-tuning job: ${job.id}`,
    `Validating training file: ${file}`,
    /^Fine-tuning job started: 228 examples, 40 steps, evaluated on 12 others/,
    /^Step 40\/40: training loss=[\d.]+$/,
    /^Checkpoint created at step 5: /,
    `New fine-tuned model created: ${job.fine_tuned_model}`,
    "The job has successfully completed",
  ])
    t.ok(
      said.some((message) => (typeof what === "string" ? message === what : what.test(message))),
      String(what),
    );
  const { data: events } = await openai.fineTuning.jobs.listEvents(job.id, { limit: 100 });
  const losses = events.flatMap(({ data }) => (data as { train_loss?: number } | null)?.train_loss ?? []);
  t.ok(losses[0]! < losses.at(-1)! / 2, `the newest first: ${losses.at(-1)} to ${losses[0]}`);

  const { data: checkpoints } = await openai.fineTuning.jobs.checkpoints.list(job.id);
  t.same(
    checkpoints.map(({ step_number }) => step_number),
    [40, 35, 30],
    "the last three",
  );
  const prompt = "blue red\n=>";
  for (const name of [job.fine_tuned_model!, checkpoints[0]!.fine_tuned_model_checkpoint]) {
    const answer = await openai.completions.create({ model: name, prompt, max_tokens: 4, temperature: 0 });
    t.ok(answer.choices[0]!.text.length > 0, `${name}: ${answer.choices[0]!.text}`);
  }
  t.notOk(await digestOf(ann, `${job.fine_tuned_model}.step-5`), "older checkpoints are gone");
  t.same(
    (await openai.fineTuning.jobs.list()).data.map(({ id }) => id),
    [job.id],
  );
  t.match(await openai.files.delete(file), { id: file, deleted: true });
  await t.rejects(create(openai, file), { status: 404, code: "training_file_not_found" });
  whole = await digestOf(ann, job.fine_tuned_model!);
  t.ok(whole);
  const metrics = await (
    await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })
  ).text();
  t.match(metrics, /prefixd_training_jobs_total\{outcome="succeeded"\} 1\n/);
  t.match(metrics, new RegExp(`prefixd_training_tokens_total ${job.trained_tokens}\n`));
});

t.test("the guide's program does what it says", async (t) => {
  const page = readFileSync(repositoryFile("docs/guides/train.md"), "utf8");
  const [, program = ""] = /^```js\n(.*?)^```$/ms.exec(page)!;
  t.match(program, "n_steps: 1000");
  const { out, code } = await ran(program.replace("n_steps: 1000", "n_steps: 2"), {
    PREFIXD_URL: server.url,
    PREFIXD_KEY: ann.key,
  });
  t.equal(code, 0, out);
  t.match(out, /^succeeded .+\n$/);
});

t.test("kill -9 of the process that trains, then of the server: it goes on to the same bits", async (t) => {
  const file = await uploaded(clientOf(server, ann));
  const job = await create(clientOf(server, ann), file, { prefix_id: "killed" });
  const pid = await beyond(clientOf(server, ann), job, 5);
  t.equal(getPriority(pid), 1);
  process.kill(pid, "SIGKILL");
  await beyond(clientOf(server, ann), job, 15);
  server.signal("SIGKILL");
  await server.exited;
  server = await start();
  t.match(await ended(clientOf(server, ann), job), { status: "succeeded", fine_tuned_model: "killed" });
  const goneOn = (await messages(clientOf(server, ann), job)).filter((text) =>
    text.startsWith("Fine-tuning job goes on after"),
  );
  t.equal(goneOn.length, 2, goneOn.join());
  t.equal(await digestOf(ann, "killed"), whole);
});

t.test("triggers are searched for, and served as the prompt that they are", async (t) => {
  const openai = clientOf(server, ann);
  const hyperparameters = {
    peft_type: "TRIGGERS",
    num_virtual_tokens: 3,
    num_candidates: 4,
    n_steps: 4,
    batch_size: 4,
  };
  const created = await create(openai, await uploaded(openai), { prefix_id: "typed", hyperparameters });
  t.match(created, {
    hyperparameters: { peft_type: "TRIGGERS", num_virtual_tokens: 3, num_candidates: 4 },
    triggers: null,
  });
  const job = await ended(openai, created);
  t.match(job, { status: "succeeded", error: null, fine_tuned_model: "typed" });
  const headers = { authorization: `Bearer ${ann.key}` };
  t.match(await (await fetch(`${server.url}/prefixes/typed`, { headers })).json(), {
    kind: "HARD_PROMPT",
    virtual_tokens: 3,
  });
  const file = await fetch(`${server.url}/prefixes/typed/adapter/prompt.json`, { headers });
  const { text, token_ids } = (await file.json()) as { text: string; token_ids: number[] };
  t.match(job, { triggers: { text, token_ids } });
  const said = await messages(openai, job);
  t.ok(said.includes(`Found triggers: ${JSON.stringify(text)}, token ids ${token_ids.join(" ")}`), said.join("\n"));
  const { data } = await openai.fineTuning.jobs.listEvents(job.id, { limit: 100 });
  const found = data.flatMap(({ data }) => (data as { triggers?: { text: string } } | null)?.triggers ?? []);
  t.ok(found.some((one) => one.text === text));
  const answer = async (model: string, prompt: string): Promise<string> =>
    (await openai.completions.create({ model, prompt, max_tokens: 6, temperature: 0 })).choices[0]!.text;
  t.equal(await answer("typed", " blue red\n=>"), await answer("demo", `${text} blue red\n=>`));
});

t.test("a search that is cancelled has told of the best triggers so far", async (t) => {
  const openai = clientOf(server, ann);
  const hyperparameters = { peft_type: "TRIGGERS", num_virtual_tokens: 2, num_candidates: 2, n_steps: 160 };
  const job = await create(openai, await uploaded(openai), { prefix_id: "given-up", hyperparameters });
  await beyond(openai, job, 20);
  while ((await openai.fineTuning.jobs.checkpoints.list(job.id)).data.length === 0) await sleep(20);
  const cancelled = await openai.fineTuning.jobs.cancel(job.id);
  t.match(cancelled, { status: "cancelled", triggers: { text: String, token_ids: [Number, Number] } });
  const { data } = await openai.fineTuning.jobs.list({ limit: 1 });
  t.same(data[0], cancelled);
});

t.test(
  "kill -9 between a checkpoint's registration and its record: it is removed when the server starts",
  async (t) => {
    const openai = clientOf(server, ann);
    const job = await create(openai, await uploaded(openai), { prefix_id: "between" });
    await beyond(openai, job, 5);
    server.signal("SIGKILL");
    await server.exited;
    // What lies in the store after a kill at that point: the prefix, without a record.
    const tables = new LmdbTrainingTables({ dir: store });
    const [newest] = tables.listCheckpoints("ann", job.id, { limit: 1, order: "desc" });
    tables.deleteCheckpoint("ann", job.id, newest!.id);
    await tables.close();
    server = await start();
    t.match(await ended(clientOf(server, ann), job), { status: "succeeded" });
    t.notOk(await digestOf(ann, newest!.name), newest!.name);
    const { data } = await clientOf(server, ann).fineTuning.jobs.checkpoints.list(job.id);
    for (const { fine_tuned_model_checkpoint: name } of data) t.ok(await digestOf(ann, name), name);
  },
);

t.test("a job that waits, and one that runs, are cancelled at once", async (t) => {
  const openai = clientOf(server, ann);
  const file = await uploaded(openai);
  const [running, waiting] = [await create(openai, file), await create(openai, file)];
  const pid = await beyond(openai, running, 0);
  for (const job of [waiting, running]) t.equal((await openai.fineTuning.jobs.cancel(job.id)).status, "cancelled");
  t.notOk(isAlive(pid), "its process is gone");
  for (const job of [waiting, running])
    t.match(await ended(openai, job), { status: "cancelled", fine_tuned_model: null });
  await t.rejects(openai.fineTuning.jobs.cancel(running.id), { status: 409, code: "training_job_ended" });
});

t.test("a removed user's files, jobs, states and process are gone before the receipt", async (t) => {
  const eve = clientOf(server, await newUser(server, "eve"));
  const file = await uploaded(eve);
  const job = await create(eve, file, { suffix: "eve" });
  const next = await create(eve, file);
  const pid = await beyond(eve, job, 10);
  const before = readdirSync(join(store, "training", "users"));
  const receipt = await admin(server, "DELETE", "/users/eve");
  t.match(receipt, {
    user: "eve",
    removed: { training_files: 1, training_jobs: 2, training_bytes: Buffer.byteLength(DATA) },
  });
  t.notOk(
    server.log.some(({ msg, job: id }) => msg === "a training process has started" && id === next.id),
    "the job that waited is not begun instead",
  );
  t.notOk(isAlive(pid));
  t.equal(readdirSync(join(store, "training", "users")).length, before.length - 1);
  const records = readdirSync(join(store, "training", "records"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith("data.mdb"))
    .map((name) => readFileSync(join(store, "training", "records", name), "latin1"));
  t.notOk(records.some((bytes) => bytes.includes(job.id)));
  const again = clientOf(server, await newUser(server, "eve"));
  t.same((await again.files.list()).data, []);
  await t.rejects(again.fineTuning.jobs.retrieve(job.id), { status: 404, code: "training_job_not_found" });
});

t.test("failures have a reason: the data, a deleted file, another model", async (t) => {
  const openai = clientOf(server, ann);
  const file = await uploaded(openai);
  const long = `${JSON.stringify({ prompt: "word ".repeat(3000), completion: "a" })}\n`;
  const first = await create(openai, await uploaded(openai, long));
  t.match(await ended(openai, first), {
    status: "failed",
    error: { code: "data_invalid", param: "training_file", message: /line 1: it has more tokens than/ },
  });
  t.notMatch((await openai.fineTuning.jobs.retrieve(first.id)).error!.message, folder.path, "no path of the server's");
  const [running, orphan] = [await create(openai, file), await create(openai, await uploaded(openai))];
  await openai.files.delete((await openai.fineTuning.jobs.retrieve(orphan.id)).training_file);
  await openai.fineTuning.jobs.cancel(running.id);
  t.match(await ended(openai, orphan), { status: "failed", error: { code: "training_file_not_found" } });

  const weights = join(model, "model.safetensors");
  t.ok(existsSync(weights));
  const bytes = readFileSync(weights);
  bytes[bytes.length - 2]! ^= 1;
  writeFileSync(`${weights}.new`, bytes);
  renameSync(`${weights}.new`, weights);
  t.match(await ended(openai, await create(openai, file)), { status: "failed", error: { code: "model_changed" } });
  await openai.files.delete(file);
});
