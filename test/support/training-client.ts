/** What users of training do with OpenAI's client, against a server of the real program. */
import { setTimeout as sleep } from "node:timers/promises";
import OpenAI, { toFile } from "openai";
import type { TestServer } from "./server.ts";

export type Job = OpenAI.FineTuning.FineTuningJob;

export const ADMIN_KEY = "training-admin-key-0123456789abcdef012345";
const WORDS = ["red", "blue", "green", "white", "black", "small", "large", "old"];
const ROWS = Array.from({ length: 240 }, (_, i) => [WORDS[i % 8]!, WORDS[(i * 3 + (i >> 3)) % 8]!]);
/** Lines of examples: two words, and the same the other way round. */
export const DATA = ROWS.map(([a, b]) => JSON.stringify({ prompt: `${a} ${b}\n=>`, completion: ` ${b} ${a}` })).join(
  "\n",
);
const HYPERPARAMETERS = { n_steps: 40, batch_size: 4, num_virtual_tokens: 4 };

export async function admin(
  server: TestServer,
  method: string,
  path: string,
  body?: object,
): Promise<Record<string, unknown>> {
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, ...(body && { "content-type": "application/json" }) };
  const init = { method, headers, ...(body && { body: JSON.stringify(body) }) };
  return (await (await fetch(`${server.url}/admin${path}`, init)).json()) as Record<string, unknown>;
}

/** A new user. */
export async function newUser(server: TestServer, id: string): Promise<{ key: string }> {
  await admin(server, "POST", "/users", { id });
  return (await admin(server, "POST", `/users/${id}/keys`, {})) as { key: string };
}

export const clientOf = (server: TestServer, { key }: { key: string }): OpenAI =>
  new OpenAI({ baseURL: `${server.url}/v1`, apiKey: key, maxRetries: 0 });

export const uploaded = async (openai: OpenAI, content = DATA): Promise<string> =>
  (await openai.files.create({ file: await toFile(Buffer.from(content), "words.jsonl"), purpose: "fine-tune" })).id;

export const createJob = (openai: OpenAI, training_file: string, more: object = {}): Promise<Job> =>
  openai.fineTuning.jobs.create({
    model: "demo",
    training_file,
    hyperparameters: HYPERPARAMETERS,
    ...more,
  });

/** The oldest first. */
export async function messages(openai: OpenAI, job: Job): Promise<string[]> {
  const found: string[] = [];
  for await (const { message } of openai.fineTuning.jobs.listEvents(job.id, { limit: 50 })) found.unshift(message);
  return found;
}

/** Resolves when it has ended. */
export async function ended(openai: OpenAI, job: Job): Promise<Job> {
  for (;;) {
    const now = await openai.fineTuning.jobs.retrieve(job.id);
    if (["succeeded", "failed", "cancelled"].includes(now.status)) return now;
    await sleep(100);
  }
}

/** Resolves when it has got beyond a step; the process that trains it, and its server, the last of those that began it. */
export async function beyond(
  servers: readonly TestServer[],
  openai: OpenAI,
  job: Job,
  step: number,
): Promise<{ server: TestServer; pid: number }> {
  for (;;) {
    const steps = (await messages(openai, job)).flatMap((text) => /^Step (\d+)\//.exec(text)?.[1] ?? []);
    if (steps.some((done) => Number(done) > step)) break;
    const { status } = await openai.fineTuning.jobs.retrieve(job.id);
    if (status === "failed" || status === "succeeded") throw new Error(`it has ${status} before step ${step}`);
    await sleep(20);
  }
  const starts = servers.flatMap((server) =>
    server.log
      .filter(({ msg, job: id }) => msg === "a training process has started" && id === job.id)
      .map((entry) => ({ server, pid: Number(entry["pid"]), time: String(entry["time"]) })),
  );
  return starts.sort((a, b) => (a.time < b.time ? -1 : 1)).at(-1)!;
}

/** Of a prefix; undefined: there is none. */
export async function digestOf(server: TestServer, { key }: { key: string }, id: string): Promise<string | undefined> {
  const answer = await fetch(`${server.url}/prefixes/${id}`, { headers: { authorization: `Bearer ${key}` } });
  return ((await answer.json()) as { digest?: string }).digest;
}

/** Whether a process is there. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
