/**
 * What has been tried to stop the server or to get at others, as it once went and as it goes now.
 *
 *     npm run bench -- attacks
 *
 * One server with the demo model and one thread, users with keys, in its own process. Beside each attack another user
 * streams; what the attack costs that user is measured. What needs several servers or a broken disk is a test, and named.
 */
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { machine, table, writeSection } from "./support/report.ts";
import { build, newUser, residentBytes } from "./support/server-process.ts";
import { startVictim } from "./support/victim.ts";
import { f32Bytes, safetensors } from "../test/support/safetensors.ts";
import { runCli, startServerProcess, temporaryFolder } from "../test/support/server.ts";

const ADMIN_KEY = "bench-admin-key-0123456789abcdef0123456789";
const LEAST_MS = 4000;
/** The demo model. */
const [LAYERS, WIDTH, POSITIONS] = [4, 256, 512];
const TESTED = (file: string): string => `[test](../../test/${file}.test.ts)`;

interface Attack {
  readonly what: string;
  /** As measured on 8e3919c, on another machine of two cores. */
  readonly then: string;
  /** A text: as the test or bench that is named shows. */
  readonly now: string | (() => Promise<string>);
  readonly prepare?: () => Promise<void>;
  readonly held?: string;
}

build();
const folder = temporaryFolder();
const server = await startServerProcess(
  ["--store", `lmdb:${join(folder.path, "store")}`, "--cache-dir", folder.path, "--threads", "1"],
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
const port = Number(new URL(server.url).port);
const status = async (answers: readonly Promise<Response>[]): Promise<string> => {
  const counts = new Map<string, number>();
  for (const answer of answers) {
    const response = await answer;
    const text = await response.text();
    const code = response.ok ? "" : ` ${(JSON.parse(text) as { code: string }).code}`;
    counts.set(`${response.status}${code}`, (counts.get(`${response.status}${code}`) ?? 0) + 1);
  }
  return [...counts].map(([code, count]) => (count === 1 ? code : `${count} x ${code}`)).join(", ");
};
const call = (key: string, method: string, path: string, body?: unknown): Promise<Response> =>
  fetch(server.url + path, {
    method,
    headers: { authorization: `Bearer ${key}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
  });
const addUser = (id: string, limits = {}): Promise<string> => newUser(server.url, ADMIN_KEY, { id, limits });
const seconds = (since: number): string => `${((performance.now() - since) / 1000).toFixed(1)} s`;
const timed = async (answers: () => readonly Promise<Response>[]): Promise<string> => {
  const started = performance.now();
  return `${await status(answers())} in ${seconds(started)}`;
};
const rss = (): number => residentBytes(server.pid) / 2 ** 20;
/** A number of /metrics, summed over its labels. */
const metric = async (name: string): Promise<number> => {
  const text = await (await call(ADMIN_KEY, "GET", "/metrics")).text();
  return [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\d+)$`, "gm"))].reduce(
    (sum, [, n]) => sum + Number(n),
    0,
  );
};
/** A PEFT adapter of `length` virtual tokens. */
const adapter = (length: number, value: number): FormData => {
  const values = new Float32Array(length * 2 * LAYERS * WIDTH).fill(value);
  const form = new FormData();
  const config = { peft_type: "PREFIX_TUNING", num_virtual_tokens: length, task_type: "CAUSAL_LM" };
  form.append("adapter_config.json", new Blob([JSON.stringify(config)]), "adapter_config.json");
  const weights = safetensors({
    prompt_embeddings: { dtype: "F32", shape: [length, 2 * LAYERS * WIDTH], data: f32Bytes(values) },
  });
  form.append("adapter_model.safetensors", new Blob([new Uint8Array(weights)]), "adapter_model.safetensors");
  return form;
};
const put = (key: string, id: string, body: FormData): Promise<Response> =>
  fetch(`${server.url}/prefixes/${id}`, { method: "PUT", headers: { authorization: `Bearer ${key}` }, body });
const raw = (key: string, method: string, path: string, body = ""): string =>
  `${method} ${path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${key}\r\n${
    body === "" ? "" : `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`
  }\r\n${body}`;
const open = (): Socket => connect(port, "127.0.0.1").on("error", () => undefined);
const many = <T>(count: number, make: (index: number) => T): T[] =>
  Array.from({ length: count }, (_, index) => make(index));
/** Repeats a GET from `clients` connections for the time of a measurement; what comes is only counted, so that it costs little here. */
const repeated = async (clients: number, path: string): Promise<string> => {
  const size = Buffer.byteLength(await (await fetch(server.url + path)).text());
  const request = `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  let answered = 0;
  const sockets = many(clients, () => {
    const socket = open();
    let got = 0;
    socket.on("data", ({ length }) => {
      got += length;
      if (got < size) return;
      [got, answered] = [0, answered + 1];
      socket.write(request);
    });
    socket.write(request);
    return socket;
  });
  await sleep(LEAST_MS);
  for (const socket of sockets) socket.destroy();
  return `${((1000 * answered) / LEAST_MS).toFixed(0)} answers a second`;
};

const [victimKey, mallory, poor, eve] = [
  await addUser("victim"),
  await addUser("mallory"),
  await addUser("poor", { tokens_per_minute: 100 }),
  await addUser("eve"),
];
const longPrompt = many(490, (index) => 300 + (index % 3000));

const attacks: readonly Attack[] = [
  {
    what: "`PATCH /prefixes/x` with `shared_with` of 35,000 equal ids",
    then: "the process stands still for 24 s, for 287 s with 150,000",
    now: () => timed(() => [call(mallory, "PATCH", "/prefixes/x", { shared_with: many(35_000, () => "u1") })]),
    held: TESTED("http/worst-bodies"),
  },
  {
    what: "350,000 empty prompts in one body",
    then: "4.3 s",
    now: () => timed(() => [call(mallory, "POST", "/generate", `{"prompts":[${many(350_000, () => "[]").join()}]}`)]),
    held: TESTED("http/worst-bodies"),
  },
  {
    what: "1 MiB of negative token ids",
    then: "1.1 s",
    now: () => timed(() => [call(mallory, "POST", "/generate", { prompt: many(340_000, () => -1) })]),
    held: TESTED("http/worst-bodies"),
  },
  {
    what: "`GET /docs/yaml` without a key, six clients",
    then: "97 ms of the event loop each; the victim from 214 to 0.3 tokens/s",
    now: () => repeated(6, "/docs/yaml"),
    held: TESTED("integration/event-loop"),
  },
  {
    what: "64 prompts of 490 ids, `n` 8, 20 log probabilities, `echo`",
    then: "an answer of 285 MB, 34 s of standing still, 2.7 GB of RSS",
    now: () =>
      timed(() => [
        call(mallory, "POST", "/generate", {
          prompts: many(64, () => longPrompt),
          n: 8,
          do_sample: true,
          logprobs: 20,
          echo: true,
          max_new_tokens: 8,
        }),
      ]),
    held: TESTED("http/generate/answer-limit"),
  },
  {
    what: "nine pipelined streams, then a reset",
    then: "eight run on and hold their rows; a SIGTERM then waits for all of `--drain-timeout`",
    now: async () => {
      const before = await metric("prefixd_requests_total");
      const socket = open();
      const stream = JSON.stringify({ prompt: "once", max_new_tokens: 400, ignore_eos: true, stream: true });
      socket.write(many(9, () => raw(mallory, "POST", "/generate", stream)).join(""));
      await sleep(200);
      socket.resetAndDestroy();
      await sleep(1000);
      const live = (await (await call(ADMIN_KEY, "GET", "/metrics")).text()).matchAll(
        /^prefixd_running_sequences(?:\{.*\})? (\d+)$/gm,
      );
      const running = [...live].reduce((sum, [, n]) => sum + Number(n), 0);
      const counted = (await metric("prefixd_requests_total")) - before;
      return `after a second ${Math.max(0, running - 1)} of them run; ${counted >= 9 ? "all are" : `${counted} are`} counted`;
    },
    held: TESTED("http/connections/pipelining"),
  },
  {
    what: "four uploads of one user at 4.6 KB/s",
    then: "everybody's PUT is 503 `uploads_busy` after a minute, for as long as it goes on",
    now: async () => {
      const sockets = many(4, () => {
        const socket = open();
        socket.write(
          `PUT /prefixes/slow HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${mallory}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 4000000\r\n\r\n--b\r\nContent-Disposition: form-data; name="adapter_model.safetensors"; filename="adapter_model.safetensors"\r\n\r\n`,
        );
        const drip = setInterval(() => socket.write(Buffer.alloc(460)), 100);
        return { socket, drip };
      });
      await sleep(1000);
      const answer = await timed(() => [put(eve, "quick", adapter(4, 0.01))]);
      for (const { socket, drip } of sockets) {
        clearInterval(drip);
        socket.destroy();
      }
      return `another user's PUT: ${answer}`;
    },
    held: TESTED("http/prefixes/transfer-gate"),
  },
  {
    what: "eight hard prompts of 490 ids at once, by a user with 100 tokens a minute",
    then: "the victim from 774 to 34 tokens/s, nothing charged",
    now: () =>
      timed(() => many(8, (index) => call(poor, "PUT", `/prefixes/fold-${index}/prompt`, { token_ids: longPrompt }))),
    held: "[bench](#folds-a-stream-beside-users-who-register-prompts)",
  },
  {
    what: "eight hard prompts of 490 ids at once, by a user without that limit",
    then: "the same",
    now: () =>
      timed(() =>
        many(8, (index) => call(mallory, "PUT", `/prefixes/fold-${index}/prompt`, { token_ids: longPrompt })),
      ),
    held: "[bench](#folds-a-stream-beside-users-who-register-prompts)",
  },
  {
    what: "24 rows that sample with every processor",
    then: "the victim from 62 to 11 tokens/s, beside 24 plain rows (GPT-2 small)",
    now: "half of what it has beside plain rows",
    held: "[bench](#heavy-rows-others-that-sample-expensively)",
  },
  {
    what: "40 requests at once of a user with 100 tokens a minute",
    then: "16,000 tokens",
    now: async () => {
      const users = await addUser("poorer", { tokens_per_minute: 100 });
      const answers = many(40, () =>
        call(users, "POST", "/generate", { prompt: "a", max_new_tokens: 400, ignore_eos: true }),
      );
      const codes = await status(answers.map(async (answer) => (await answer).clone()));
      let tokens = 0;
      for (const answer of answers) {
        const response = await answer;
        if (response.ok)
          tokens += ((await response.json()) as { usage: { completion_tokens: number } }).usage.completion_tokens;
      }
      return `${tokens} tokens (${codes})`;
    },
    held: TESTED("users/token-rate"),
  },
  {
    what: "400 downloads of 4 MB that nobody reads",
    then: "RSS from 432 to 1,973 MB",
    now: async () => {
      const registered = await put(eve, "large", adapter(POSITIONS - 12, 0.001));
      if (!registered.ok) throw new Error(await registered.text());
      const before = rss();
      const sockets = many(400, () => {
        const socket = open();
        socket.pause();
        socket.write(raw(eve, "GET", "/prefixes/large/adapter/adapter_model.safetensors"));
        return socket;
      });
      let most = before;
      for (let turn = 0; turn < 40; turn++) {
        await sleep(100);
        most = Math.max(most, rss());
      }
      for (const socket of sockets) socket.destroy();
      return `RSS from ${before.toFixed(0)} to ${most.toFixed(0)} MiB`;
    },
    held: TESTED("http/prefixes/downloads"),
  },
  {
    what: "listing 600 prefixes that are each shared with 1,000 users",
    then: "40 MB, 4 s of standing still (LMDB); always 503 (Redis)",
    prepare: async () => {
      const readers = many(1000, (index) => `r${index}`);
      for (const id of readers) await (await call(ADMIN_KEY, "POST", "/admin/users", { id })).text();
      for (let i = 0; i < 600; i++) {
        await (await put(eve, `shared-${i}`, adapter(1, 0.01))).text();
        await (await call(eve, "PATCH", `/prefixes/shared-${i}`, { shared_with: readers })).text();
      }
    },
    now: async () => {
      const started = performance.now();
      const text = await (await call(eve, "GET", "/prefixes?limit=1000")).text();
      return `${(text.length / 2 ** 20).toFixed(1)} MiB in ${seconds(started)}`;
    },
    held: TESTED("integration/event-loop"),
  },
  {
    what: "a prefix of finite but huge values (3.4e38)",
    then: "500 `model_failed` at every request",
    now: () => timed(() => [put(mallory, "huge", adapter(4, 3.4e38))]),
    held: TESTED("integration/prefix-overflow"),
  },
  {
    what: "two `Host` headers",
    then: "the first is taken",
    now: async () => {
      const socket = open();
      socket.write(`GET /model HTTP/1.1\r\nHost: a\r\nHost: b\r\nAuthorization: Bearer ${mallory}\r\n\r\n`);
      const line = await new Promise<string>((resolve) =>
        socket.once("data", (data) => resolve(data.toString().split("\r\n")[0]!)),
      );
      socket.destroy();
      return line.replace("HTTP/1.1 ", "");
    },
  },
  {
    what: "`/docs` in a frame of another site",
    then: "allowed",
    now: async () => {
      const { headers } = await fetch(`${server.url}/docs/`);
      return headers.get("x-frame-options") === "DENY" ? "refused by its headers" : "allowed";
    },
  },
  {
    what: "the admin key as prefix id, user id or path",
    then: "in the log and the audit log, in clear",
    now: async () => {
      await call(ADMIN_KEY, "GET", `/prefixes/${ADMIN_KEY}`);
      await call(ADMIN_KEY, "GET", `/admin/users/${ADMIN_KEY}x`);
      await call(ADMIN_KEY, "GET", `/${ADMIN_KEY}`);
      return JSON.stringify(server.log).includes(ADMIN_KEY) ? "still there" : "never";
    },
    held: TESTED("http/secrets-in-logs"),
  },
  {
    what: "`--store redis://:PASSWORD@HOST/x`",
    then: "a stack trace, and the password with some mistakes",
    now: async () => {
      const { exited, stderr } = runCli(["serve", "--store", "redis://:hidden-word@127.0.0.1/x"]);
      const code = await exited;
      const text = stderr().trim();
      return `exit code ${code}, ${text.split("\n").length === 1 ? "one line" : "several lines"}${text.includes("hidden-word") ? ", with the password" : ""}`;
    },
    held: TESTED("redis/url"),
  },
  {
    what: "Redis' clock steps forward by 12 s before a removal",
    then: "`replicas: []`, up to 4,855 tokens after the receipt",
    now: "no token after a receipt; what cannot be known is 503",
    held: TESTED("replicas/removal"),
  },
  {
    what: "a removed user's id is created anew",
    then: "the new user reads what was shared with the old one",
    now: "404",
    held: TESTED("users/shares"),
  },
  {
    what: "a truncated or flipped `data.mdb`",
    then: "the whole process ends (SIGBUS)",
    now: "503 for its user; others go on",
    held: TESTED("faults/damaged-files"),
  },
  {
    what: "does another's private prefix exist? By the time of a 404",
    then: "0.80 against 1.09 ms, 81 % of pairs (LMDB)",
    now: "the same number of questions to the store",
    held: "[bench](#foreign-ids-does-time-tell-what-others-have)",
  },
  {
    what: "a Redis failover that loses a removal's write",
    then: "the user is back",
    now: "answered once the replicas have it, else 503",
    held: TESTED("redis/failover"),
  },
  {
    what: "what `kill -9` leaves in Redis",
    then: "ids without users; names in dead replicas' inboxes",
    now: "nothing after the next start",
    held: TESTED("redis/residue"),
  },
];

const victim = await startVictim({ url: server.url, key: victimKey, tokens: 400 });
const rows: string[][] = [];
try {
  const alone = (await victim.during(() => sleep(LEAST_MS), LEAST_MS)).flow;
  for (const { what, then, now, prepare, held = "" } of attacks) {
    if (typeof now === "string") {
      rows.push([what, then, now, "", "", held]);
      continue;
    }
    await prepare?.();
    const { flow, result } = await victim.during(now, LEAST_MS);
    const { tokensPerSecond, longestGapMs, failures } = flow;
    const rate = `${((100 * tokensPerSecond) / alone.tokensPerSecond).toFixed(0)} %${failures > 0 ? `, ${failures} refused` : ""}`;
    rows.push([what, then, result, rate, `${longestGapMs.toFixed(0)} ms`, held]);
    process.stderr.write(`${rows.at(-1)!.join(" | ")}\n`);
    await sleep(500);
  }
  const text = table(["attack", "then", "now", "the other user's tokens/s", "longest gap", "held by"], rows);
  console.log(text.join("\n"));
  if (process.env["DRY"] === undefined)
    writeSection("attacks", [
      `Demo model, one thread, LMDB. Another user streams meanwhile: tokens/s of the ${alone.tokensPerSecond.toFixed(0)} that it has alone (longest gap ${alone.longestGapMs.toFixed(0)} ms), over at least ${LEAST_MS / 1000} seconds, and the longest time between two tokens. ${machine()}.`,
      "",
      ...text,
    ]);
} finally {
  await victim.stop();
  server.signal("SIGTERM");
  await server.exited;
  folder.remove();
}
process.exit(0);
