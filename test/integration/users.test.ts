/** Users on real servers: keys, sharing, limits, usage, and removal over two replicas on one Redis. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { eventually, longStream } from "../support/fault-client.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";
import { adapterForm, startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
const PROMPT = "i want to book a flight to london on August 14th, 2024\n=>";
const folder = temporaryFolder();
t.teardown(() => folder.remove());

function start(name: string, ...args: string[]): Promise<TestServer> {
  const files = ["--cache-dir", join(folder.path, "cache"), "--audit-log", join(folder.path, `${name}.audit`)];
  files.push("--replica-name", name);
  const inFile = args.includes("--admin-key-file");
  return startServerProcess([...files, ...args], inFile ? {} : { PREFIXD_ADMIN_KEY: ADMIN_KEY });
}

/** The response fields that these tests read. */
interface Body {
  readonly key: string;
  readonly key_id: string;
  readonly request_id?: string;
  readonly choices: { readonly text: string }[];
  readonly prefixes: unknown[];
  readonly usage: Record<string, number> & Record<string, number>[];
  readonly removed: { readonly running: number; readonly queued: number };
  readonly replicas: { readonly name: string; readonly acknowledged_at: string | null }[];
}

/** A request with a key: status and parsed body. */
async function call(
  server: TestServer,
  key: string,
  method: string,
  path: string,
  body?: unknown,
): Promise<{ status: number; body: Body; headers: Headers }> {
  const headers = new Headers({ authorization: `Bearer ${key}` });
  if (body !== undefined && !(body instanceof FormData)) headers.set("content-type", "application/json");
  const response = await fetch(server.url + path, {
    method,
    headers,
    body: body instanceof FormData ? body : body === undefined ? null : JSON.stringify(body),
  });
  const text = await response.text();
  return { status: response.status, body: JSON.parse(text === "" ? "{}" : text) as Body, headers: response.headers };
}

async function metrics(server: TestServer): Promise<string> {
  return (await fetch(`${server.url}/metrics`, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })).text();
}

/** Waits until sequences run on a server, and a little longer, so that some tokens have been generated. */
async function untilRunning(server: TestServer, sequences = 1): Promise<void> {
  for (let waited = 0; waited < 10_000; waited += 5) {
    const running = Number(/^prefixd_running_sequences (\d+)/m.exec(await metrics(server))?.[1]);
    if (running >= sequences) return void (await sleep(20));
    await sleep(5);
  }
  throw new Error("nothing runs");
}

async function createUser(server: TestServer, id: string, more: object = {}): Promise<string> {
  const created = await call(server, ADMIN_KEY, "POST", "/admin/users", { id, ...more });
  if (created.status !== 201) throw new Error(JSON.stringify(created.body));
  return String((await call(server, ADMIN_KEY, "POST", `/admin/users/${id}/keys`)).body.key);
}

const ask = (prefix: string | null, more: object = {}): object => ({
  prompt: PROMPT,
  prefix_id: prefix,
  max_new_tokens: 40,
  ...more,
});

const LONG = { prompt: PROMPT, max_new_tokens: 400, ignore_eos: true };

/** A key is deleted and a user suspended on `near`, while `far` works for them. */
async function revocations(t: Test, near: TestServer, far: TestServer): Promise<void> {
  const eve = await createUser(near, "eve");
  const guest = await createUser(near, "guest");
  const second = (await call(near, ADMIN_KEY, "POST", "/admin/users/eve/keys")).body;

  const spared = call(far, eve, "POST", "/generate", LONG);
  const whole = call(far, second.key, "POST", "/generate", LONG);
  const stream = await longStream(far, null, second.key);
  await untilRunning(far, 3);
  t.equal((await call(near, ADMIN_KEY, "DELETE", `/admin/users/eve/keys/${second.key_id}`)).status, 204);
  t.equal((await call(far, second.key, "GET", "/prefixes")).status, 401, "a deleted key is refused at once");
  t.match(await whole, { status: 410, body: { code: "removed", detail: /^The key was removed/ } });
  t.match(await stream.rest(), /"finish_reason":"removed"/);
  t.match(await spared, { status: 200, body: { usage: { completion_tokens: 400 } } }, "another key's request goes on");
  t.equal((await call(near, ADMIN_KEY, "DELETE", `/admin/users/eve/keys/${second.key_id}`)).status, 404);

  t.equal((await call(near, eve, "PUT", "/prefixes/p", { text: "three blind mice" })).status, 201);
  t.equal((await call(near, eve, "PATCH", "/prefixes/p", { shared_with: ["guest"] })).status, 200);
  const others = call(far, guest, "POST", "/generate", { ...LONG, prefix_id: "eve/p" });
  const again = call(far, eve, "POST", "/generate", LONG);
  const last = await longStream(far, null, eve);
  await untilRunning(far, 3);
  const suspension = await call(near, ADMIN_KEY, "PATCH", "/admin/users/eve", { suspended: true });
  t.match(suspension, { status: 200, body: { suspended: true } });
  for (const server of [near, far])
    t.match(await call(server, eve, "GET", "/prefixes"), { status: 403, body: { code: "user_suspended" } });
  t.match(await again, { status: 403, body: { code: "user_suspended" } });
  t.match(await last.rest(), /"finish_reason":"removed"/);
  t.equal((await others).status, 200, "who uses the user's shared prefix goes on");
  t.equal((await call(near, ADMIN_KEY, "PATCH", "/admin/users/eve", { suspended: false })).status, 200);
  for (const server of [near, far]) t.equal((await call(server, eve, "GET", "/prefixes")).body.prefixes.length, 1);
  t.equal((await call(far, eve, "POST", "/generate", ask(null, { max_new_tokens: 1 }))).status, 200);
}

t.test("one server on LMDB", async (t) => {
  const keyFile = join(folder.path, "admin.key");
  writeFileSync(keyFile, ADMIN_KEY);
  const server = await start("lmdb", "--store", `lmdb:${join(folder.path, "store")}`, "--admin-key-file", keyFile);
  t.teardown(() => server.signal("SIGKILL"));
  const [ann, bob] = [
    await createUser(server, "ann", { weight: 2 }),
    await createUser(server, "bob", { limits: { tokens_per_minute: 60, max_prefixes: 1 } }),
  ];

  t.test("prefixes are their owner's until shared", async (t) => {
    t.equal((await call(server, ann, "PUT", "/prefixes/flights", adapterForm("prefixes/intent"))).status, 201);
    t.equal((await call(server, ann, "POST", "/generate", ask("flights"))).body.choices[0]!.text, " book flight");
    const foreign = await call(server, bob, "POST", "/generate", ask("ann/flights"));
    const unknown = await call(server, bob, "POST", "/generate", ask("ann/nothing"));
    t.equal(foreign.status, 404);
    t.same({ ...foreign.body, request_id: "" }, { ...unknown.body, request_id: "" });
    t.equal((await call(server, ann, "PATCH", "/prefixes/flights", { shared_with: ["bob"] })).status, 200);
    t.equal((await call(server, bob, "POST", "/generate", ask("ann/flights"))).body.choices[0]!.text, " book flight");
    t.equal((await fetch(`${server.url}/generate`, { method: "POST" })).status, 401);
  });

  t.test("tokens per minute and prefixes are limited", async (t) => {
    for (let used = 0; used < 10; used++)
      await call(server, bob, "POST", "/generate", ask("ann/flights", { ignore_eos: true }));
    const refused = await call(server, bob, "POST", "/generate", ask("ann/flights"));
    t.match(refused, { status: 429, body: { code: "token_rate_exceeded" } });
    t.match(refused.headers.get("retry-after"), /^\d+$/);
    t.match(refused.headers.get("ratelimit-policy"), /"tokens";q=60/);
    t.equal((await call(server, ann, "POST", "/generate", ask("flights"))).status, 200, "others go on");
    t.equal(
      (await call(server, ADMIN_KEY, "PATCH", "/admin/users/bob", { limits: { tokens_per_minute: null } })).status,
      200,
    );
    await sleep(1100);
    t.equal((await call(server, bob, "POST", "/generate", ask("ann/flights"))).status, 200);
    t.equal((await call(server, bob, "PUT", "/prefixes/one", adapterForm("prefixes/datenorm"))).status, 201);
    t.match(await call(server, bob, "PUT", "/prefixes/two", adapterForm("prefixes/datenorm")), {
      status: 403,
      body: { code: "quota_exceeded" },
    });
  });

  t.test("registering a hard prompt counts its tokens", async (t) => {
    const dan = await createUser(server, "dan", { limits: { tokens_per_minute: 60, max_running: 1 } });
    t.equal((await call(server, dan, "PUT", "/prefixes/adapter", adapterForm("prefixes/intent"))).status, 201);
    const ids = Array.from({ length: 40 }, (_, at) => at + 10);
    const answers = await Promise.all(
      Array.from({ length: 8 }, (_, at) => call(server, dan, "PUT", `/prefixes/p${at}`, { token_ids: ids })),
    );
    const refused = answers.filter(({ status }) => status === 429);
    t.equal(answers.filter(({ status }) => status === 201).length, 2, "40 of 60, and what overfills the limit");
    t.equal(refused.length, 6);
    for (const { body, headers } of refused) {
      t.match(body, { code: "token_rate_exceeded" });
      t.match(headers.get("retry-after"), /^\d+$/);
      t.match(headers.get("ratelimit-policy"), /^"tokens";q=60;w=60$/);
    }
    await sleep(600);
    const { usage } = (await call(server, dan, "GET", "/usage")).body;
    t.same(
      usage.map(({ requests, prompt_tokens, completion_tokens }) => [requests, prompt_tokens, completion_tokens]),
      [
        [0, 40, 0],
        [0, 40, 0],
      ],
      "keys and values cost nothing, and none is a request to generate",
    );
    t.equal((await call(server, ADMIN_KEY, "DELETE", "/admin/users/dan?keep_usage=true")).status, 200);
    t.match(await call(server, ADMIN_KEY, "GET", "/admin/users/dan/usage"), {
      status: 200,
      body: { totals: { requests: 0, prompt_tokens: 80 } },
    });
    t.match(await metrics(server), /^prefixd_step_tokens_total\{phase="fold"\} 8\d$/m);
  });

  t.test("usage adds up to that of the answers", async (t) => {
    const before = (await call(server, ann, "GET", "/usage")).body;
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => call(server, ann, "POST", "/generate", ask("flights"))),
    );
    await sleep(600);
    const after = (await call(server, ann, "GET", "/usage")).body;
    const sum = (page: Body, field: string): number => page.usage.reduce((total, row) => total + row[field]!, 0);
    t.equal(sum(after, "requests") - sum(before, "requests"), 20);
    for (const field of ["prefix_tokens", "prompt_tokens", "completion_tokens"]) {
      t.equal(
        sum(after, field) - sum(before, field),
        answers.reduce((total, { body }) => total + body.usage[field]!, 0),
        field,
      );
    }
  });

  t.test("deleted keys and suspended users", (t) => revocations(t, server, server));

  t.test("a new admin key takes the old one's place, without a moment without one", async (t) => {
    const next = "another-admin-key-that-is-long-enough-too";
    const statuses = () =>
      Promise.all([ADMIN_KEY, next].map(async (key) => (await call(server, key, "GET", "/admin/users")).status));
    t.same(await statuses(), [200, 401]);
    writeFileSync(keyFile, `${next}\n${ADMIN_KEY}\n`);
    await eventually(async () => (await statuses())[1] === 200);
    t.same(await statuses(), [200, 200]);
    writeFileSync(keyFile, ADMIN_KEY);
    await eventually(async () => (await statuses())[1] === 401);
    t.same(await statuses(), [200, 401]);
    const lines = readFileSync(join(folder.path, "lmdb.audit"), "utf8").trim().split("\n");
    t.equal(lines.filter((line) => line.includes("admin_keys.change")).length, 2);
    t.notOk(lines.join().includes(next));
  });

  t.test("removal ends running requests and returns a receipt; the id can be used again", async (t) => {
    const long = ask("flights", { max_new_tokens: 400, ignore_eos: true });
    const running = Promise.all(Array.from({ length: 4 }, () => call(server, ann, "POST", "/generate", long)));
    await untilRunning(server);
    const receipt = await call(server, ADMIN_KEY, "DELETE", "/admin/users/ann");
    t.match(receipt, {
      status: 200,
      body: { user: "ann", removed: { prefixes: 1, keys: 1 }, replicas: [{ acknowledged_at: /Z$/ }] },
    });
    t.ok(receipt.body.removed.running + receipt.body.removed.queued > 0, "requests were ended");
    for (const { status } of await running) t.equal(status, 410);
    t.equal((await call(server, ann, "POST", "/generate", ask("flights"))).status, 401);
    t.equal((await call(server, bob, "POST", "/generate", ask("ann/flights"))).status, 404);
    t.equal((await call(server, ADMIN_KEY, "GET", "/admin/users/ann")).status, 404);
    const again = await createUser(server, "ann");
    t.equal((await call(server, again, "GET", "/prefixes")).body.prefixes.length, 0);
    t.equal((await call(server, again, "PUT", "/prefixes/flights", adapterForm("prefixes/intent"))).status, 201);
  });

  t.test("kept usage includes the requests that the removal ended", async (t) => {
    const cat = await createUser(server, "cat");
    const running = call(server, cat, "POST", "/generate", { prompt: PROMPT, max_new_tokens: 400, ignore_eos: true });
    await untilRunning(server);
    t.equal((await call(server, ADMIN_KEY, "DELETE", "/admin/users/cat?keep_usage=true")).status, 200);
    await running;
    const { usage } = (await call(server, ADMIN_KEY, "GET", "/admin/users/cat/usage")).body;
    t.match(usage, [{ requests: 1, prompt_tokens: 18 }]);
    t.ok(usage[0]!["completion_tokens"]! > 0);
  });

  t.test("the audit log has all of this, without a key or a prompt", async (t) => {
    const lines = readFileSync(join(folder.path, "lmdb.audit"), "utf8");
    for (const secret of [ADMIN_KEY, ann, bob, "flight to london"]) t.notOk(lines.includes(secret));
    for (const line of lines.trim().split("\n")) {
      const entry = JSON.parse(line) as { action: string };
      t.match(entry, { replica: "lmdb" });
      if (entry.action !== "admin_keys.change") t.match(entry, { address: "127.0.0.1", request_id: /./ });
    }
    for (const action of ["user.create", "key.create", "user.remove", "prefix."]) t.ok(lines.includes(action), action);
  });
});

t.test("two replicas on one Redis", { skip: lacking("redis-server") }, async (t) => {
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const [one, two] = await Promise.all([start("one", "--store", redis.url), start("two", "--store", redis.url)]);
  t.teardown(() => [one, two].forEach((server) => server.signal("SIGKILL")));
  const [ann, bob] = [
    await createUser(one, "ann", { limits: { tokens_per_minute: 100_000 } }),
    await createUser(two, "bob"),
  ];
  t.equal((await call(one, ann, "PUT", "/prefixes/mine", adapterForm("prefixes/intent"))).status, 201);
  t.equal(
    (await call(two, ann, "POST", "/generate", ask("mine"))).body.choices[0]!.text,
    " book flight",
    "what one takes, two serves",
  );

  const second = (await call(one, ADMIN_KEY, "POST", "/admin/users/bob/keys")).body;
  t.equal((await call(two, second.key, "GET", "/prefixes")).status, 200);
  t.equal((await call(one, ADMIN_KEY, "DELETE", `/admin/users/bob/keys/${second.key_id}`)).status, 204);
  t.equal(
    (await call(two, second.key, "GET", "/prefixes")).status,
    401,
    "a deleted key is refused by the other replica",
  );

  await t.test("deleted keys and suspended users", (t) => revocations(t, one, two));

  const running = call(two, ann, "POST", "/generate", ask("mine", { max_new_tokens: 400, ignore_eos: true }));
  await untilRunning(two);
  const receipt = await call(one, ADMIN_KEY, "DELETE", "/admin/users/ann");
  t.equal(receipt.status, 200);
  t.equal(receipt.body.replicas.length, 2);
  t.ok(receipt.body.replicas.every((replica) => replica.acknowledged_at !== null));
  t.same(receipt.body.replicas.map(({ name }) => name).sort(), ["one", "two"]);
  for (const server of [one, two]) {
    const name = server === one ? "one" : "two";
    t.ok(
      server.log.every(({ replica }) => replica === name),
      "and each line of its log",
    );
    t.match(await metrics(server), `prefixd_replica_info{replica="${name}",version="`);
  }
  t.equal((await running).status, 410);
  t.same(
    await redis.command("KEYS", "*{ann}*"),
    ["prefixd:{ann}:removed"],
    "nothing but the mark against late uploads, which expires",
  );
  for (const server of [one, two]) t.equal((await call(server, ann, "GET", "/prefixes")).status, 401);
  t.equal((await call(two, bob, "GET", "/prefixes")).status, 200);
});
