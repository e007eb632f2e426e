/** A real server on LMDB with a full or read-only disk: what is refused, what still works, and that it recovers. */
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { ADMIN_KEY, call, eventually, generate, INTENT, longStream, type Reply } from "../support/fault-client.ts";
import { lacking, NOBODY } from "../support/requirements.ts";
import { adapterForm, runCli, startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const cache = ["--cache-dir", join(folder.path, "cache")];

const put = (server: TestServer, name: string, from: string, key?: string): Promise<Reply> =>
  call(server, "PUT", `/prefixes/${name}`, adapterForm(`prefixes/${from}`), key);

/** Limits the process's file size; 0 acts like a full disk. Needs no privilege. */
function limitFiles({ pid }: Pick<TestServer, "pid">, bytes: string): void {
  const { status, stderr, error } = spawnSync("prlimit", ["--pid", String(pid), `--fsize=${bytes}:`], {
    encoding: "utf8",
  });
  if (status !== 0) throw error ?? new Error(stderr);
}

t.test("a full disk", { skip: lacking("prlimit"), timeout: 120_000 }, async (t) => {
  const audit = join(folder.path, "audit.jsonl");
  const server = await startServerProcess(
    [...cache, "--store", `lmdb:${join(folder.path, "full")}`, "--audit-log", audit],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
  t.teardown(() => server.signal("SIGKILL"));
  t.equal((await put(server, "mine", "intent")).status, 201);
  t.equal((await call(server, "POST", "/admin/users", { id: "ann" })).status, 201);
  const ann = String((await call(server, "POST", "/admin/users/ann/keys")).body.key);
  t.equal((await call(server, "PATCH", "/prefixes/mine", { visibility: "shared" })).status, 200);
  const stream = await longStream(server, "admin/mine", ann);

  limitFiles(server, "0");
  const full = { status: 507, code: "store_full" };
  t.match(await put(server, "mine", "datenorm"), full, "a replacement");
  t.match(await put(server, "first", "datenorm", ann), full, "the first prefix of a user");
  t.match(await call(server, "POST", "/admin/users", { id: "bob" }), full);
  t.match(await call(server, "GET", "/prefixes/first", undefined, ann), { status: 404 }, "nothing is left of it");
  t.match(await stream.rest(), /"finish_reason":"length"/);
  for (let i = 0; i < 3; i++)
    t.equal((await generate(server, "admin/mine", {}, ann)).body.choices?.[0]?.text, INTENT, "the old version");
  await eventually(async () =>
    (await call(server, "GET", "/metrics")).text.includes('prefixd_store_errors_total{op="addUsage"}'),
  );

  limitFiles(server, "unlimited");
  t.equal((await put(server, "first", "datenorm", ann)).status, 201);
  t.equal((await put(server, "mine", "datenorm")).status, 200);
  await eventually(async () => (await call(server, "GET", "/usage", undefined, ann)).body.usage?.[0]?.requests === 4);
  t.pass("no request is missing from the usage");
  const actions = readFileSync(audit, "utf8")
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { outcome: string }).outcome);
  t.ok(actions.includes("store_full") && actions.at(-1) === "ok", "the audit log has what it could not write before");
});

t.test("training on a full disk", { skip: lacking("prlimit"), timeout: 120_000 }, async (t) => {
  const store = join(folder.path, "training");
  const server = await startServerProcess([
    ...[...cache, "--store", `lmdb:${store}`, "--training", "on", "--train-threads", "1", "--train-nice", "1"],
  ]);
  t.teardown(() => server.signal("SIGKILL"));
  const upload = (): Promise<Reply> => {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", new Blob(['{"prompt": "a", "completion": "b"}\n'.repeat(100)]), "a.jsonl");
    return call(server, "POST", "/v1/files", form);
  };
  const { id: training_file } = (await upload()).body as unknown as { id: string };
  const body = { model: "demo", training_file, hyperparameters: { n_steps: 100_000 } };
  limitFiles(server, "0");
  t.equal((await upload()).status, 507);
  t.equal((await call(server, "POST", "/v1/fine_tuning/jobs", body)).status, 507);
  limitFiles(server, "unlimited");
  t.same(readdirSync(join(store, "training", "incoming")), [], "nothing is left of what was refused");

  const { id } = (await call(server, "POST", "/v1/fine_tuning/jobs", body)).body as unknown as { id: string };
  const job = async (): Promise<unknown> => (await call(server, "GET", `/v1/fine_tuning/jobs/${id}`)).body;
  await eventually(async () => ((await job()) as { status: string }).status === "running");
  const { pid } = server.log.find(({ msg }) => msg === "a training process has started") as { pid: number };
  limitFiles({ pid }, "0");
  // A state that is kept at once.
  process.kill(server.pid, "SIGTERM");
  await server.exited;
  const again = await startServerProcess([...cache, "--store", `lmdb:${store}`, "--training", "on"]);
  t.teardown(() => again.signal("SIGKILL"));
  t.match((await call(again, "GET", `/v1/fine_tuning/jobs/${id}`)).body, {
    status: "failed",
    error: { code: "store_full", message: "The server's disk is full." },
  });
});

t.test(
  "killed with -9 on a full disk, it starts on it again",
  { skip: lacking("prlimit"), timeout: 120_000 },
  async (t) => {
    const store = ["--store", `lmdb:${join(folder.path, "again")}`];
    const first = await startServerProcess([...cache, ...store]);
    t.teardown(() => first.signal("SIGKILL"));
    t.equal((await put(first, "mine", "intent")).status, 201);
    limitFiles(first, "0");
    const puts = Array.from({ length: 8 }, () => put(first, "mine", "datenorm").catch(() => null));
    first.signal("SIGKILL");
    await Promise.all(puts);
    const second = await startServerProcess([...cache, ...store]);
    t.teardown(() => second.signal("SIGKILL"));
    limitFiles(second, "0");
    t.equal((await generate(second, "mine")).body.choices?.[0]?.text, INTENT);
  },
);

t.test("read-only", { skip: lacking("open-checkout"), timeout: 120_000 }, async (t) => {
  // Root may write everywhere, so as root the test runs the server as another user.
  const asRoot = process.getuid?.() === 0;
  const home = temporaryFolder();
  t.teardown(() => home.remove());
  const dir = join(home.path, "store");
  mkdirSync(dir);
  if (asRoot) for (const path of [home.path, dir]) chownSync(path, NOBODY, NOBODY);
  const flags = ["--cache-dir", join(home.path, "cache"), "--store", `lmdb:${dir}`];
  const options = asRoot ? { uid: NOBODY, gid: NOBODY } : {};

  chmodSync(dir, 0o555);
  const refused = runCli(["serve", "--port", "0", ...flags], {}, options);
  t.equal(await refused.exited, 1);
  t.match(
    refused.stderr(),
    /^prefixd: The folder of --store lmdb:[^ ]* cannot be created or written to \(EACCES: permission denied, open [^\n]*\n$/,
    "one line that says which folder",
  );

  chmodSync(dir, 0o755);
  const server = await startServerProcess(flags, {}, options);
  t.teardown(() => server.signal("SIGKILL"));
  chmodSync(join(dir, "prefixes"), 0o555);
  t.match(await put(server, "mine", "intent"), { status: 503, code: "store_unavailable", retryAfter: 5 });
  t.match(await call(server, "GET", "/health/ready"), {
    status: 503,
    body: { checks: { store: "The prefix store cannot read or write its files." } },
  });
  t.equal((await generate(server, null)).status, 200, "generation goes on");
  chmodSync(join(dir, "prefixes"), 0o755);
  t.equal((await put(server, "mine", "intent")).status, 201);
  t.equal((await call(server, "GET", "/health/ready")).status, 200);
  t.equal((await generate(server, "mine")).body.choices?.[0]?.text, INTENT);
});
