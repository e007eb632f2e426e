import { Agent, request, type IncomingMessage } from "node:http";
import { connect } from "node:net";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { drain, type DrainTimes } from "../../../src/http/server.ts";
import { buildTestApp, until, type TestApp } from "../../support/app.ts";
import { open, parseSse, raw, readAll } from "../../support/fake-client.ts";
import { suddenClients } from "../../support/sudden-clients.ts";
import { lacking } from "../../support/requirements.ts";

const STREAM = { prompt: "ab", stream: true, max_new_tokens: 3 };
const start = (app: TestApp, { delay = sleep(0), graceMs }: Partial<DrainTimes> & { graceMs: number }): Promise<void> =>
  drain({ app, generation: app.generation, engine: app.engine }, { delay, graceMs });
const get = (port: number, path: string, agent: Agent | false = false): Promise<IncomingMessage> =>
  new Promise(
    (resolve, reject) => void request({ agent, host: "127.0.0.1", port, path }, resolve).on("error", reject).end(),
  );

t.test("a leaving server is not ready, serves what comes, and closes each connection after its answer", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  const before = await get(port, "/prefixes", agent);
  t.equal(before.headers.connection, "keep-alive");
  await readAll(before);
  let refuse = (): void => undefined;
  const drained = start(app, { delay: new Promise<void>((resolve) => (refuse = resolve)), graceMs: 60_000 });
  const reused = await get(port, "/prefixes", agent);
  t.match([reused.statusCode, reused.headers.connection], [200, "close"], "the connection of before");
  t.equal((await get(port, "/health/ready")).statusCode, 503);
  const stream = await open(port, "/generate", STREAM);
  t.match([stream.statusCode, stream.headers.connection], [200, "close"]);
  t.match(parseSse(await readAll(stream)).at(-1), { data: "[DONE]" });
  refuse();
  await drained;
  await t.rejects(open(port, "/generate", STREAM), { code: "ECONNREFUSED" });
});

t.test("requests that began before close their connection too", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const answer = open(await app.listen(), "/generate", { ...STREAM, stream: false });
  await until(() => app.engine.submitted.length === 1);
  const drained = start(app, { delay: sleep(10), graceMs: 1000 });
  for (let i = 0; i < 3; i++) app.engine.step();
  t.match((await answer).headers, { connection: "close" });
  await drained;
});

t.test("then new requests are refused, running ones may end, and the rest ends properly", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const port = await app.listen();
  const quick = open(port, "/generate", { ...STREAM, max_new_tokens: 1 });
  await until(() => app.engine.submitted.length === 1);
  const slow = open(port, "/generate", STREAM);
  await until(() => app.engine.submitted.length === 2);
  const whole = open(port, "/generate", { ...STREAM, stream: false });
  await until(() => app.engine.submitted.length === 3);
  const idle = connect(port, "127.0.0.1");
  await once(idle, "connect");
  // Long enough for all that is asked meanwhile.
  const drained = start(app, { graceMs: 5_000 });
  await until(() => app.state.phase === "refusing");
  const refused = await open(port, "/generate", STREAM);
  t.match(refused, { statusCode: 503, headers: { connection: "close", "retry-after": "5" } });
  t.match(JSON.parse(await readAll(refused)), { code: "draining" });
  await until(() => !app.fastify.server.listening);
  await t.rejects(open(port, "/generate", STREAM), { code: "ECONNREFUSED" });
  idle.write("GET /prefixes HTTP/1.1\r\nHost: localhost\r\n\r\n");
  t.match(
    await readAll(idle),
    /^HTTP\/1\.1 503 [^]*"code":"draining"/,
    "a connection that was open, and had not asked yet",
  );
  app.engine.step();
  t.match(parseSse(await readAll(await quick)), [{ data: /"length"/ }, { data: "[DONE]" }]);
  t.match(parseSse(await readAll(await slow)).at(-1), { event: "error", data: /"draining"/ });
  t.equal((await whole).statusCode, 503);
  t.match(JSON.parse(await readAll(await whole)), { code: "draining" });
  await drained;
  t.equal(app.engine.stats().running, 0);
});

t.test("a scrape is answered in every phase, as long as it reaches the server", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const port = await app.listen();
  const running = open(port, "/generate", { ...STREAM, max_new_tokens: 1 });
  await until(() => app.engine.submitted.length === 1);
  const idle = connect(port, "127.0.0.1");
  await once(idle, "connect");
  const drained = start(app, { delay: sleep(200), graceMs: 60_000 });
  for (const phase of ["leaving", "refusing"]) {
    await until(() => app.state.phase === phase);
    const scrape = await get(port, "/metrics");
    t.equal(scrape.statusCode, 200, phase);
    t.match(await readAll(scrape), /^prefixd_queue_depth \d/m, phase);
  }
  await until(() => !app.fastify.server.listening);
  idle.write("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
  t.match(String(await once(idle, "data")), /^HTTP\/1\.1 200 /, "the port is closed, the connection was there before");
  await t.rejects(get(port, "/metrics"), { code: "ECONNREFUSED" });
  app.engine.step();
  t.match(parseSse(await readAll(await running)).at(-1), { data: "[DONE]" });
  await drained;
});

t.test("connections in the kernel's queue are answered", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const answers = Array.from({ length: 50 }, () =>
    raw(port, "GET /prefixes HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
  );
  // They are made by the kernel while the server's turn has not come yet.
  const drained = start(app, { graceMs: 1000 });
  for (const answer of await Promise.all(answers)) t.match(answer, /^HTTP\/1\.1 (200|503) /);
  await drained;
});

t.test(
  "connections made while the port closes are answered or refused, never reset",
  { skip: lacking("socket-filter") },
  async (t) => {
    const app = await buildTestApp(t);
    const port = await app.listen();
    const { traffic } = app;
    // The last moments of the port: nothing has come for a while, and the socket is closed. The server is slow to go from one to the other.
    const [early, late] = [await suddenClients(port, 20), await suddenClients(port, 20)];
    const quiet = traffic.quiet.bind(traffic);
    traffic.quiet = async (...times) => {
      await quiet(...times);
      traffic.quiet = quiet;
      early.come();
    };
    const { _handle: handle } = app.fastify.server as unknown as { _handle: { close(...args: unknown[]): void } };
    const close = handle.close.bind(handle);
    handle.close = (...args) => {
      late.come();
      close(...args);
    };
    await start(app, { graceMs: 1000 });
    t.same(await early.ends, Array(20).fill("503"));
    t.same(await late.ends, Array(20).fill("ECONNREFUSED"));
  },
);

t.test("a keep-alive connection stays open until the end, for a request that may be on its way", async (t) => {
  const app = await buildTestApp(t);
  app.engine.stepMs = null;
  const port = await app.listen();
  const running = open(port, "/generate", { ...STREAM, max_new_tokens: 1 });
  await until(() => app.engine.submitted.length === 1);
  const agent = new Agent({ keepAlive: true });
  t.teardown(() => agent.destroy());
  await readAll(await get(port, "/prefixes", agent));
  const drained = start(app, { graceMs: 60_000 });
  await until(() => !app.fastify.server.listening);
  const late = await get(port, "/prefixes", agent);
  t.match([late.statusCode, late.headers.connection], [503, "close"]);
  app.engine.step();
  t.match(parseSse(await readAll(await running)).at(-1), { data: "[DONE]" });
  await drained;
});

t.test("a connection without a request is waited for, up to a limit", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const sockets = [connect(port, "127.0.0.1"), connect(port, "127.0.0.1")] as const;
  await Promise.all(sockets.map((socket) => once(socket, "connect")));
  const drained = start(app, { graceMs: 0 });
  await until(() => !app.fastify.server.listening);
  // Longer than nothing must come otherwise.
  await sleep(300);
  sockets[0].write("GET /prefixes HTTP/1.1\r\nHost: localhost\r\n\r\n");
  t.match(await readAll(sockets[0]), /^HTTP\/1\.1 503 [^]*"code":"draining"/);
  sockets[1].destroy();
  await drained;
});

t.test("an upload in progress is a running request", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  const body = JSON.stringify({ text: "ab" });
  const socket = connect(port, "127.0.0.1");
  socket.write(
    `PUT /prefixes/p HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 5)}`,
  );
  await until(() => app.traffic.open === 1);
  const drained = start(app, { graceMs: 60_000 });
  await until(() => !app.fastify.server.listening);
  socket.write(body.slice(5));
  t.match(String(await once(socket, "data")), /^HTTP\/1\.1 201 /);
  await drained;
});
