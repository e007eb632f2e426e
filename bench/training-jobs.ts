/**
 * What do streams lose beside a training job? The real server with its default settings, and a job that a user has
 * started; rounds alternate between the server with a job and without.
 *
 *     [STREAMS=4] [ROUNDS=3] [SECONDS=60] [SIZE=demo|gpt2|...] npm run bench -- training-jobs
 *
 * For each round: time between the tokens of one stream, at the client, over all streams, which follow one another all the
 * time. The job never ends by itself; its loading and first steps are not measured. SECONDS is to be some hundred times as
 * long as a training step: training takes a share of the time, in whole steps.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { CACHE, DEMO, sizedCheckpoint } from "./support/gpt2.ts";
import { machine, median, quantile, table, writeSection } from "./support/report.ts";
import { build, CLI, listening } from "./support/server-process.ts";

const STREAMS = Number(process.env["STREAMS"] ?? 4);
const ROUNDS = Number(process.env["ROUNDS"] ?? 3);
const SECONDS = Number(process.env["SECONDS"] ?? 60);
const SIZE = process.env["SIZE"] ?? "demo";
/** Before each measurement. */
const SETTLE_MS = 5_000;
const TOKENS = 400;
const KEY = "training-bench-admin-key-0123456789abcdef";
const BOUND = 1.3;

build();
const model = SIZE === "demo" ? DEMO : await sizedCheckpoint(SIZE);
const dir = mkdtempSync(join(tmpdir(), "prefixd-training-jobs-"));
const server = spawn(
  process.execPath,
  [CLI, "serve", "--port", "0", "--model", model, "--store", `lmdb:${dir}`, "--cache-dir", CACHE, "--training", "on"],
  { env: { ...process.env, PREFIXD_ADMIN_KEY: KEY }, stdio: ["ignore", "pipe", "inherit"] },
);
try {
  const url = await listening(server.stdout, once(server, "close"));
  const authorization = `Bearer ${KEY}`;
  const json = async (path: string, body?: object): Promise<Record<string, unknown>> => {
    const init: RequestInit =
      body === undefined
        ? { headers: { authorization } }
        : {
            method: "POST",
            headers: { authorization, "content-type": "application/json" },
            body: JSON.stringify(body),
          };
    return (await (await fetch(url + path, init)).json()) as Record<string, unknown>;
  };
  const form = new FormData();
  form.append("purpose", "fine-tune");
  const line = (i: number): string =>
    JSON.stringify({ prompt: `example ${i} of many\n=>`, completion: ` answer ${i}` });
  form.append("file", new Blob([Array.from({ length: 2000 }, (_, i) => line(i)).join("\n")]), "examples.jsonl");
  const { id: file } = (await (
    await fetch(`${url}/v1/files`, { method: "POST", headers: { authorization }, body: form })
  ).json()) as { id: string };
  const { model: name } = (await json("/model")) as { model: string };

  /** A job that trains by now; its id. */
  const startJob = async (): Promise<string> => {
    const { id } = (await json("/v1/fine_tuning/jobs", {
      model: name,
      training_file: file,
      hyperparameters: { n_steps: 1_000_000 },
    })) as { id: string };
    while ((await json(`/v1/fine_tuning/jobs/${id}`))["status"] !== "running") await sleep(200);
    return id;
  };
  /** Gaps of streams that follow one another, once they have settled; `before` is done while they run. */
  const gaps = async (before: () => Promise<unknown>): Promise<number[]> => {
    const found: number[] = [];
    let [counts, over] = [false, false];
    const streams = Array.from({ length: STREAMS }, async (_, i) => {
      while (!over) await stream(new URL(url), i, authorization, (gap) => void (counts && found.push(gap)));
    });
    await before();
    await sleep(SETTLE_MS);
    counts = true;
    await sleep(1000 * SECONDS);
    counts = false;
    over = true;
    await Promise.all(streams);
    return found;
  };

  const alone: number[][] = [];
  const beside: number[][] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const without = await gaps(async () => undefined);
    let job = "";
    const during = await gaps(async () => (job = await startJob()));
    await json(`/v1/fine_tuning/jobs/${job}/cancel`, {});
    alone.push(without);
    beside.push(during);
    process.stderr.write(
      `p99 ${quantile(without, 0.99).toFixed(1)} ms alone, ${quantile(during, 0.99).toFixed(1)} beside\n`,
    );
  }
  const rows = (
    [
      ["median", 0.5],
      ["p95", 0.95],
      ["p99", 0.99],
    ] as const
  ).map(([what, q]) => {
    const [a, b] = [alone, beside].map((rounds) => rounds.map((round) => quantile(round, q)));
    return [
      what,
      median(a!).toFixed(1),
      median(b!).toFixed(1),
      median(b!.map((value, i) => value / a![i]!)).toFixed(2),
    ];
  });
  const text = table(["time between tokens", "alone, ms", "beside a job, ms", "ratio"], rows);
  console.log(text.join("\n"));
  const ratio = Number(rows.at(-1)!.at(-1));
  if (ratio > BOUND) process.exitCode = 1;
  if (SIZE === "demo")
    writeSection("training-jobs", [
      `Demo model, default settings, ${STREAMS} streams all the time, ${SECONDS} s each; medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
      "",
      ...text,
    ]);
} finally {
  server.kill("SIGKILL");
  await once(server, "close").catch(() => undefined);
  rmSync(dir, { recursive: true, force: true });
}

/** One stream; `onGap` gets the milliseconds between its events, without those before the first token. */
function stream(url: URL, index: number, authorization: string, onGap: (gap: number) => void): Promise<void> {
  const body = JSON.stringify({
    prompt: `stream number ${index}`,
    max_new_tokens: TOKENS,
    ignore_eos: true,
    stream: true,
  });
  const headers = { authorization, "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  const options = { host: url.hostname, port: url.port, path: "/generate", method: "POST", headers };
  return new Promise((resolve, reject) => {
    const call = request(options, (response) => {
      let last = NaN;
      response.setEncoding("utf8");
      response.on("data", (text: string) => {
        if (!text.includes('"finish_reason":null')) return;
        const now = performance.now();
        if (!Number.isNaN(last)) onGap(now - last);
        last = now;
      });
      response.on("end", () =>
        response.statusCode === 200 ? resolve() : reject(new Error(`status ${response.statusCode}`)),
      );
    });
    call.on("error", reject);
    call.end(body);
  });
}
