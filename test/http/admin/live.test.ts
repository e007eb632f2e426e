/** GET /admin/live over real sockets. */
import { once } from "node:events";
import { get, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { Check } from "typebox/value";
import t from "tap";
import { MAX_READERS } from "../../../src/http/admin/live-feed.ts";
import { LiveEvent } from "../../../src/http/admin/live-schema.ts";
import type { EngineSnapshot } from "../../../src/observability/engine-observer.ts";
import { AdminKeys } from "../../../src/users/admin-keys.ts";
import { createAuthenticator } from "../../../src/users/authenticator.ts";
import { ADMIN_KEY, buildTestApp, until } from "../../support/app.ts";
import { readAll } from "../../support/fake-client.ts";
import { FakeUserStore } from "../../support/fake-user-store.ts";

const QUIET: EngineSnapshot = { rows: [], tenants: [] };
const BUSY: EngineSnapshot = {
  rows: [{ tenant: "ann", prefixId: "admin/intent", phase: "decode", tokens: 3, of: 20, ageMs: 12.4 }],
  tenants: [
    { tenant: "ann", weight: 2, rows: 1, waiting: 0, oldestMs: null },
    { tenant: "bob", weight: 1, rows: 0, waiting: 2, oldestMs: 7.6 },
  ],
};
const NEW_KEY = "another-admin-key-0123456789abcdef0123456";
const KEY = { authorization: `Bearer ${ADMIN_KEY}` };

/** Resolves with the headers. */
function live(port: number, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    get({ agent: false, host: "127.0.0.1", port, path: "/admin/live", headers }, resolve).on("error", reject);
  });
}

/** The stream's events as they come. */
async function* eventsOf(response: IncomingMessage): AsyncGenerator<LiveEvent> {
  let text = "";
  for await (const chunk of response.setEncoding("utf8")) {
    text += String(chunk);
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const event = text.slice(0, end);
      text = text.slice(end + 2);
      if (event.startsWith("data: ")) yield JSON.parse(event.slice(6)) as LiveEvent;
      else if (event.startsWith("event: error")) throw new Error(event);
    }
  }
}

async function first(response: IncomingMessage): Promise<LiveEvent> {
  const { value } = await eventsOf(response)[Symbol.asyncIterator]().next();
  return value as LiveEvent;
}

t.test("what runs and waits, as events of the documented form; asked for only while somebody reads", async (t) => {
  let asked = 0;
  let now = QUIET;
  const app = await buildTestApp(t, { keyed: true, snapshot: () => (asked++, now) });
  const port = await app.listen();
  await sleep(300);
  t.equal(asked, 0, "nobody reads");
  const response = await live(port, KEY);
  t.equal(response.statusCode, 200);
  t.match(response.headers, { "content-type": "text/event-stream; charset=utf-8", "cache-control": /no-cache/ });
  const seen: LiveEvent[] = [];
  for await (const event of eventsOf(response)) {
    t.ok(Check(LiveEvent, event));
    seen.push(event);
    now = BUSY;
    app.metrics.step("decode", 2, 2, 0.5);
    app.metrics.firstToken(0.003);
    app.metrics.request("ok");
    if (seen.length === 2) break;
  }
  t.match(seen[0], { state: "serving", slots: 8, max_queue: 256, rows: [], users: [], waiting: 0 });
  t.match(seen[1], {
    rows: [{ user: "ann", prefix: "admin/intent", phase: "decode", tokens: 3, of: 20, age_ms: 12 }],
    users: [
      { user: "bob", weight: 1, rows: 0, waiting: 2, oldest_ms: 8 },
      { user: "ann", weight: 2, rows: 1, waiting: 0, oldest_ms: null },
    ],
    more_users: 0,
    waiting: 2,
    totals: {
      steps: { decode: { runs: 1, tokens: 2, seconds: 0.5 }, prefill: { runs: 0, tokens: 0, seconds: 0 } },
      requests: { ok: 1 },
    },
  });
  const { bounds, counts, seconds } = seen[1]!.totals.first_token;
  t.equal(counts.length, bounds.length + 1);
  t.same([counts[bounds.indexOf(0.005)], counts.reduce((a, b) => a + b), seconds], [1, 1, 0.003]);

  await until(() => app.logs.some((line) => line.includes('"route":"/admin/live"')));
  await sleep(300);
  const last = asked;
  await sleep(600);
  t.equal(asked, last, "nobody reads any more");
  t.match(
    app.audits.filter(({ action }) => action === "live.read"),
    [{ outcome: "ok", user: "admin" }],
    "one entry in the audit log",
  );
  t.notMatch(app.logs.join(""), new RegExp(ADMIN_KEY));
});

t.test("readers share the work, and are bounded", async (t) => {
  let asked = 0;
  const app = await buildTestApp(t, { snapshot: () => (asked++, BUSY) });
  const port = await app.listen();
  const readers = await Promise.all(Array.from({ length: MAX_READERS }, () => live(port)));
  t.teardown(() => readers.forEach((reader) => reader.destroy()));
  t.ok(asked <= 4, `${asked} times for ${MAX_READERS} readers`);
  const refused = await live(port);
  t.match([refused.statusCode, refused.headers["retry-after"]], [503, "5"]);
  t.match(JSON.parse(await readAll(refused)), { code: "live_busy" });
  readers[0]!.destroy();
  await until(() => app.logs.filter((line) => line.includes('"route":"/admin/live"')).length === 2);
  const another = await live(port);
  t.equal(another.statusCode, 200, "one has left");
  another.destroy();
});

t.test("a stream ends when its key is withdrawn; those of other keys go on", async (t) => {
  const adminKeys = new AdminKeys([ADMIN_KEY, NEW_KEY]);
  const auth = createAuthenticator({ store: new FakeUserStore(), adminKeys });
  const app = await buildTestApp(t, { auth, snapshot: () => BUSY });
  const port = await app.listen();
  const [old, other] = await Promise.all(
    [ADMIN_KEY, NEW_KEY].map(async (key) => eventsOf(await live(port, { authorization: `Bearer ${key}` }))),
  );
  for (const events of [old!, other!]) t.equal((await events.next()).done, false);
  adminKeys.replace([NEW_KEY]);
  await t.rejects(async () => {
    for await (const event of old!) t.ok(event, "was on its way");
  }, /unauthorized/);
  for (let i = 0; i < 3; i++) t.equal((await other!.next()).done, false);
  await other!.return(undefined);
});

t.test("of many users, those with the most waiting", async (t) => {
  const tenants = Array.from({ length: 300 }, (_, i) => ({
    tenant: `u${i}`,
    weight: 1,
    rows: 0,
    waiting: i,
    oldestMs: 0,
  }));
  const app = await buildTestApp(t, { snapshot: () => ({ rows: [], tenants }) });
  const response = await live(await app.listen());
  const { users, more_users, waiting } = await first(response);
  t.same([users.length, users[0]?.user, more_users, waiting], [100, "u299", 200, (299 * 300) / 2]);
});

t.test("a slow reader misses events, and nothing piles up for it", async (t) => {
  const rows = Array.from({ length: 1000 }, () => ({ ...BUSY.rows[0]!, prefixId: `ann/${"x".repeat(4000)}` }));
  const app = await buildTestApp(t, {
    snapshot: () => ({ rows, tenants: [] }),
    stream: { bufferLimit: 64 << 20, heartbeatMs: 60_000, sendMs: 60_000 },
  });
  const port = await app.listen();
  let waiting = 0;
  app.fastify.server.on("connection", (socket) => {
    const timer = setInterval(() => (waiting = Math.max(waiting, socket.writableLength)), 50);
    socket.once("close", () => clearInterval(timer));
  });
  const socket = connect(port, "127.0.0.1");
  t.teardown(() => socket.destroy());
  await once(socket, "connect");
  socket.pause();
  socket.write("GET /admin/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
  // A second reader, which reads, so that it is known how many events there were.
  const response = await live(port);
  let events = 0;
  for await (const { rows: told } of eventsOf(response)) if (told.length === 1000 && ++events === 6) break;
  const event = 4_100_000;
  t.ok(waiting > 0, "it does not read");
  t.ok(waiting < 2 * event, `${waiting} bytes wait of ${events} events of ${event}`);
});

t.test("a client that breaks off its request gets no second answer within the stream", async (t) => {
  const app = await buildTestApp(t, { snapshot: () => QUIET });
  const port = await app.listen();
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  socket.write("GET /admin/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n");
  let text = String((await once(socket, "data"))[0]);
  socket.end();
  for await (const bytes of socket) text += String(bytes);
  t.match(text, /^HTTP\/1\.1 200 /);
  t.equal(text.split("HTTP/1.1").length, 2);
});

t.test("what fails ends the streams, and the next one works", async (t) => {
  let works = false;
  const app = await buildTestApp(t, {
    snapshot: () => {
      if (works) return QUIET;
      throw new Error("a secret");
    },
  });
  const port = await app.listen();
  const text = await readAll(await live(port));
  t.match(text, /^event: error\ndata: .*"code":"internal"/);
  t.notMatch(text, /a secret/);
  t.match(app.logs.join(""), /a secret/, "the log has the reason");
  works = true;
  const next = await live(port);
  t.match(await first(next), { rows: [] });
  next.destroy();
});

t.test("a drain ends it, and tells so before", async (t) => {
  const app = await buildTestApp(t, { snapshot: () => QUIET });
  const response = await live(await app.listen());
  const seen: LiveEvent[] = [];
  await t.rejects(async () => {
    for await (const event of eventsOf(response)) {
      seen.push(event);
      app.state.phase = event.state === "serving" ? "leaving" : "refusing";
    }
  }, /event: error\ndata: .*"code":"draining"/);
  t.same(
    seen.map(({ state }) => state),
    ["serving", "draining"],
  );
  await until(() => app.traffic.open === 0);
});
