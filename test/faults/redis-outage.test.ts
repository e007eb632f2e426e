/** A real server whose Redis is killed, loses its data, or hangs: what clients see, what still works, and recovery. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { ADMIN_KEY, call, eventually, generate, INTENT, longStream, type Reply } from "../support/fault-client.ts";
import { startRedis, type TestRedis } from "../support/redis.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { adapterForm, runCli, startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

skipFileWithout(t, "redis-server");

let redis: TestRedis;
let server: TestServer;
/** Ann's key. */
let ann: string;

const unavailable = { status: 503, code: "store_unavailable", retryAfter: 2 };
const ready = async (): Promise<boolean> => (await call(server, "GET", "/health/ready")).status === 200;
const put = (name: string, key?: string): Promise<Reply> =>
  call(server, "PUT", `/prefixes/${name}`, adapterForm("prefixes/intent"), key);
const connections = async (): Promise<number> =>
  String(await redis.command("CLIENT", "LIST", "TYPE", "normal"))
    .trim()
    .split("\n").length;

/** One request for each way of needing the store. */
async function whatNeedsTheStore(): Promise<Reply[]> {
  return Promise.all([
    generate(server, "never-asked-for"),
    put("new"),
    call(server, "GET", "/prefixes/cached"),
    call(server, "GET", "/prefixes"),
    call(server, "DELETE", "/prefixes/cached"),
    call(server, "POST", "/admin/users", { id: "carl" }),
    generate(
      server,
      "never-asked-for",
      {},
      "pfx_00000000000000000000000000_0000000000000000000000000000000000000000000",
    ),
  ]);
}

t.before(async () => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  redis = await startRedis("--appendonly", "yes", "--appendfsync", "always");
  t.teardown(() => redis.stop());
  server = await startServerProcess(["--cache-dir", join(folder.path, "cache"), "--store", redis.url], {
    PREFIXD_ADMIN_KEY: ADMIN_KEY,
  });
  t.teardown(() => server.signal("SIGKILL"));
  for (const name of ["cached", "never-asked-for"]) await put(name);
  await call(server, "POST", "/admin/users", { id: "ann" });
  ann = String((await call(server, "POST", "/admin/users/ann/keys")).body.key);
  await put("mine", ann);
  for (const [prefix, key] of [
    ["cached", ADMIN_KEY],
    ["mine", ann],
  ] as const)
    t.equal((await generate(server, prefix, {}, key)).body.choices?.[0]?.text, INTENT);
});

t.test("killed while streams run, and started again with its data", { timeout: 60_000 }, async (t) => {
  const stream = await longStream(server, "mine", ann);
  await redis.kill();
  t.equal((await generate(server, "cached")).body.choices?.[0]?.text, INTENT, "what is cached goes on");
  t.equal(
    (await generate(server, "mine", {}, ann)).body.choices?.[0]?.text,
    INTENT,
    "with a key that was seen before too",
  );
  for (const reply of await whatNeedsTheStore()) if (reply.status !== 401) t.match(reply, unavailable);
  t.equal((await call(server, "GET", "/health/live")).status, 200);
  t.match(await call(server, "GET", "/health/ready"), { status: 503, body: { checks: { model: "ok" } } });
  t.match(await stream.rest(), /"finish_reason":"length"/, "the stream ends as it should");
  const users = runCli(["users", "list", "--url", server.url], { PREFIXD_ADMIN_KEY: ADMIN_KEY });
  t.not(await users.exited, 0);
  t.match(users.stderr(), /cannot be reached right now.*store_unavailable/s);

  await redis.start();
  await eventually(ready);
  t.equal((await generate(server, "never-asked-for")).body.choices?.[0]?.text, INTENT);
  t.equal((await put("new")).status, 201);
});

t.test(
  "hung: no request hangs with it, what runs goes on, and late answers do no harm",
  { timeout: 90_000 },
  async (t) => {
    await generate(server, "cached");
    const before = await connections();
    const stream = await longStream(server, "cached");
    redis.signal("SIGSTOP");
    const started = performance.now();
    const answers = Promise.all(Array.from({ length: 100 }, (_, i) => generate(server, `unknown-${i}`)));
    const late = put("late");
    t.match(await call(server, "GET", "/health/ready"), { status: 503 });
    t.equal((await call(server, "GET", "/health/live")).status, 200);
    t.match(await stream.rest(), /"finish_reason":"length"/);
    for (const reply of await answers)
      if (reply.code !== "store_unavailable" || reply.retryAfter !== 2) t.fail("503 for all", { reply });
    t.match(await late, unavailable);
    t.comment(`all were answered after ${Math.round(performance.now() - started)} ms`);
    t.equal((await generate(server, "cached")).body.choices?.[0]?.text, INTENT, "within the bound");

    redis.signal("SIGCONT");
    await eventually(ready);
    await eventually(async () => (await connections()) === before);
    t.pass("no connection is left over");
    const applied = await call(server, "GET", "/prefixes/late");
    t.ok(
      applied.status === 404 || (await generate(server, "late")).body.choices?.[0]?.text === INTENT,
      "a PUT that was answered 503 has happened or not, never half",
    );
    t.ok((await put("late")).status < 300);
    t.equal((await generate(server, "late")).body.choices?.[0]?.text, INTENT);
  },
);

t.test("usage is counted once, whatever became of its writing", { timeout: 60_000 }, async (t) => {
  await call(server, "POST", "/admin/users", { id: "bob" });
  const bob = String((await call(server, "POST", "/admin/users/bob/keys")).body.key);
  const requests = async (): Promise<number> =>
    ((await call(server, "GET", "/usage", undefined, bob)).body.usage ?? []).reduce(
      (sum, row) => sum + row.requests,
      0,
    );
  await generate(server, null, {}, bob);
  redis.signal("SIGSTOP");
  for (let i = 0; i < 4; i++) t.equal((await generate(server, null, {}, bob)).status, 200);
  // Longer than a command's limit: the server gives up on the write, although Redis has received it.
  await sleep(3000);
  redis.signal("SIGCONT");
  await eventually(ready);
  await eventually(async () => (await requests()) >= 5);
  await generate(server, null, {}, bob);
  await eventually(async () => (await requests()) >= 6);
  t.equal(await requests(), 6);
});

t.test(
  "restarted without its data: nothing of before is served, and it can be used anew",
  { timeout: 60_000 },
  async (t) => {
    t.equal((await generate(server, "cached")).status, 200);
    const stream = await longStream(server, "mine", ann);
    await redis.kill();
    await redis.start({ empty: true });
    await eventually(ready);
    t.match(await stream.rest(), /"finish_reason":"length"/, "what ran ends as it should");
    await eventually(async () => (await generate(server, "cached")).status === 404);
    await eventually(async () => (await generate(server, "mine", {}, ann)).status === 401);
    t.match(await generate(server, "cached"), { code: "prefix_not_found" });
    t.match(await generate(server, "mine", {}, ann), { code: "unauthorized" }, "keys are gone like their users");
    t.match(await call(server, "GET", "/admin/users/ann"), { code: "user_not_found" });
    t.equal((await put("cached")).status, 201);
    t.equal((await generate(server, "cached")).body.choices?.[0]?.text, INTENT);
    t.equal((await call(server, "POST", "/admin/users", { id: "ann" })).status, 201);
    const again = String((await call(server, "POST", "/admin/users/ann/keys")).body.key);
    t.equal((await put("mine", again)).status, 201);
    t.equal((await generate(server, "mine", {}, again)).body.choices?.[0]?.text, INTENT);
  },
);
