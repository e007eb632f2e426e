/** What HTTP workers add to the suites that run with and without them: their own end, and what they hold. */
import { once } from "node:events";
import { connect, Socket } from "node:net";
import { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import t, { type Test } from "tap";
import { OpenAnswers } from "../../../src/http/connections/open-answers.ts";
import { WorkerSide } from "../../../src/http/workers/child.ts";
import type { HttpWorkers, HttpWorkersOptions } from "../../../src/http/workers/pool.ts";
import { FrameReader, FROM_WORKER } from "../../../src/http/workers/protocol.ts";
import { createLogger } from "../../../src/observability/logging.ts";
import { buildTestApp, type TestApp } from "../../support/app.ts";
import { startHttpWorkers } from "../../support/http-workers.ts";

const STREAM = { prompt: "ab", stream: true, max_new_tokens: 3 };
const [EVENT, DONE] = ["generation.step", "[DONE]"];

async function start(t: Test, count: number, options: Partial<HttpWorkersOptions> = {}): Promise<HttpWorkers> {
  const workers = await startHttpWorkers(count, options);
  t.teardown(() => workers.close());
  return workers;
}

interface Client {
  readonly socket: Socket;
  text: string;
  closed: boolean;
}

/** Sends a request and keeps what comes. */
async function ask(port: number, body: object): Promise<Client> {
  const json = JSON.stringify(body);
  const socket = connect(port, "127.0.0.1");
  const client: Client = { socket, text: "", closed: false };
  socket.on("error", () => undefined).on("close", () => (client.closed = true));
  socket.on("data", (bytes) => (client.text += bytes.toString()));
  socket.write(
    `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${json.length}\r\n\r\n${json}`,
  );
  await once(socket, "connect");
  return client;
}

/** On a busy machine a new process takes seconds. */
async function eventually(condition: () => boolean): Promise<void> {
  for (const end = performance.now() + 60_000; !condition(); await sleep(10))
    if (performance.now() > end) throw new Error(`never came true: ${String(condition)}`);
}

const silent = async (t: Test): Promise<TestApp> => {
  const app = await buildTestApp(t);
  Object.assign(app.engine, { stepMs: null, maxQueue: 100 });
  return app;
};

t.test("a worker that is killed takes its own connections with it, and gets a successor", async (t) => {
  const app = await silent(t);
  const lines: string[] = [];
  const logger = createLogger("error", { write: (line: string) => void lines.push(line) });
  const workers = await start(t, 2, { metrics: app.metrics, logger });
  const port = await app.listen(workers);
  const clients = await Promise.all(Array.from({ length: 6 }, () => ask(port, STREAM)));
  t.teardown(() => clients.forEach(({ socket }) => socket.destroy()));
  await eventually(() => app.engine.submitted.length === 6);
  app.engine.step();
  await eventually(() => clients.every(({ text }) => text.includes(EVENT)));
  const before = workers.pids;
  process.kill(before[0]!, "SIGKILL");
  await eventually(() => app.engine.cancelled.length === 3);
  await eventually(() => clients.filter(({ closed }) => closed).length === 3);
  for (let step = 0; step < 2; step++) app.engine.step();
  await eventually(() => clients.filter(({ text }) => text.includes(DONE)).length === 3);
  t.equal(clients.filter(({ text, closed }) => text.includes(DONE) && closed).length, 0, "others' connections stay");
  await eventually(() => workers.pids.length === 2);
  t.not(workers.pids.includes(before[0]!), true);
  t.ok(workers.pids.includes(before[1]!));
  const metrics = await app.metrics.render();
  t.match(metrics, /^prefixd_http_workers 2$/m);
  t.match(metrics, /^prefixd_http_workers_ended_total 1$/m);
  t.equal((await fetch(`http://127.0.0.1:${port}/health/live`)).status, 200);
  const ended = lines.map((line) => JSON.parse(line) as object);
  t.match(ended, [{ msg: "an HTTP worker ended", pid: before[0]!, signal: "SIGKILL", connections: 3 }]);
  t.equal(ended.length, 1);
});

t.test("a connection that is lost on its way to a worker is over when the next one arrives", async (t) => {
  const frames: [kind: number, id: number][] = [];
  const reader = new FrameReader((kind, id) => void frames.push([kind, id]));
  const write = (chunk: Buffer, _encoding: string, done: () => void): void => {
    reader.read(chunk);
    done();
  };
  const side = new WorkerSide(new Duplex({ read: () => undefined, write }) as Socket);
  for (const id of [1, 4]) side.accept(id, new Socket());
  await eventually(() => frames.length > 0);
  t.same(frames, [
    [FROM_WORKER.closed, 2],
    [FROM_WORKER.closed, 3],
  ]);
});

t.test("while there is no worker, the server holds new connections itself", async (t) => {
  const app = await silent(t);
  const workers = await start(t, 1);
  const port = await app.listen(workers);
  process.kill(workers.pids[0]!, "SIGKILL");
  await eventually(() => workers.pids.length === 0);
  t.throws(() => workers.check(), { code: "internal" });
  const client = await ask(port, STREAM);
  await eventually(() => app.engine.submitted.length === 1);
  for (let step = 0; step < 3; step++) app.engine.step();
  await eventually(() => client.text.includes(DONE));
  client.socket.destroy();
  await eventually(() => workers.pids.length === 1);
  workers.check();
});

t.test("a worker that hangs is ended, and nobody waits for what it holds", async (t) => {
  const app = await silent(t);
  const workers = await start(t, 1, { lookMs: 50 });
  const port = await app.listen(workers);
  const client = await ask(port, STREAM);
  await eventually(() => app.engine.submitted.length === 1);
  const [pid] = workers.pids;
  process.kill(pid!, "SIGSTOP");
  app.engine.step();
  await sleep(0);
  await workers.settled();
  await eventually(() => client.closed);
  t.notMatch(client.text, EVENT);
  await eventually(() => app.engine.cancelled.length === 1);
});

t.test("connections that a worker did not take before it ended are closed", async (t) => {
  const app = await silent(t);
  const workers = await start(t, 1, { lookMs: 50 });
  const port = await app.listen(workers);
  process.kill(workers.pids[0]!, "SIGSTOP");
  const clients = await Promise.all(Array.from({ length: 3 }, () => ask(port, STREAM)));
  t.teardown(() => clients.forEach(({ socket }) => socket.destroy()));
  await eventually(() => clients.every(({ closed }) => closed));
  t.equal(await promisify(app.fastify.server.getConnections.bind(app.fastify.server))(), 0);
});

t.test("a worker writes no answer after the lease under which it was sent, but errors", async (t) => {
  const app = await silent(t);
  let until = performance.now() + 3_000;
  const workers = await start(t, 1, { leaseUntil: () => until, lookMs: 60_000 });
  const port = await app.listen(workers);
  const client = await ask(port, STREAM);
  await eventually(() => app.engine.submitted.length === 1);
  until = performance.now() + 3_000;
  app.engine.step();
  await eventually(() => client.text.includes(EVENT));
  process.kill(workers.pids[0]!, "SIGSTOP");
  until = performance.now() + 200;
  const seen = client.text;
  app.engine.step();
  await sleep(400);
  process.kill(workers.pids[0]!, "SIGCONT");
  await eventually(() => client.closed);
  t.equal(client.text, seen, "cut, with nothing more");
  t.equal((await fetch(`http://127.0.0.1:${port}/health/live`)).status, 200, "without a lease");
});

for (const count of [0, 1])
  t.test(`nothing of a removed user waits for a slow reader, with ${count} workers`, async (t) => {
    const workers = count === 0 ? null : await start(t, count);
    const answers = new OpenAnswers(workers);
    const app = await buildTestApp(t, { answers });
    // More than the system's own buffers take.
    app.fastify.get("/large", { config: { access: "user" } }, async () => Buffer.alloc(24 << 20));
    const port = await app.listen(workers ?? undefined);
    const socket = connect(port, "127.0.0.1").on("error", () => undefined);
    socket.pause();
    socket.write("GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await eventually(() => app.traffic.open === 1);
    await sleep(300);
    await answers.endOfUser("somebody");
    t.equal(app.traffic.open, 1, "others' answers stay");
    await answers.endOfUser("local");
    await eventually(() => app.traffic.open === 0);
    let bytes = 0;
    socket.on("data", (chunk) => (bytes += chunk.length)).resume();
    await once(socket, "close");
    t.ok(bytes < 24 << 20, `${bytes} bytes`);
  });
