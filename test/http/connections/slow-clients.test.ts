/** Clients that do not send, or do not read: each loses its connection in time, and whatever it held is free. */
import { once } from "node:events";
import { request } from "node:http";
import { connect, type Socket } from "node:net";
import t from "tap";
import { CLIENT_DEFAULTS, STREAM_DEFAULTS } from "../../../src/http/app-parts.ts";
import { connectionsAllowed } from "../../../src/http/connections/open-files.ts";
import { drain, listenAt } from "../../../src/http/server.ts";
import { UPLOADS } from "../../../src/http/prefixes/transfer-gate.ts";
import { RelayedSocket } from "../../../src/http/workers/relayed-socket.ts";
import { ADAPTER, ADMIN_KEY, buildTestApp, form, post as jsonPost, until, type TestApp } from "../../support/app.ts";
import { open, readAll } from "../../support/fake-client.ts";
import { lacking } from "../../support/requirements.ts";

/** A connection on which nothing is read until `resume`; ended with the test. */
function paused(
  t: { teardown(fn: () => void): unknown },
  port: number,
  bytes: string | Buffer,
  host = "127.0.0.1",
): Socket {
  const socket = connect(port, host).on("error", () => undefined);
  socket.pause();
  socket.write(bytes);
  t.teardown(() => socket.destroy());
  return socket;
}

/** All that comes until the other side closes. */
async function rest(socket: Socket): Promise<string> {
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  return text;
}

/** The first answer, whole, in however many pieces it comes. */
async function firstAnswer(socket: Socket): Promise<string> {
  let text = "";
  for (;;) {
    const [chunk] = (await once(socket.resume(), "data")) as [Buffer];
    text += String(chunk);
    const head = text.indexOf("\r\n\r\n");
    const length = /\r\ncontent-length: (\d+)\r\n/i.exec(text)?.[1];
    if (head >= 0 && text.length >= head + 4 + Number(length ?? 0)) return text;
  }
}

/** The first answer; the connection is then ended. */
async function answer(socket: Socket): Promise<string> {
  const text = await firstAnswer(socket);
  socket.end();
  return text;
}

const post = (body: string, length = body.length): string =>
  `POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n${body}`;
const uploadHead = (name: string, type: string, length: number): Buffer =>
  Buffer.from(
    `PUT /prefixes/${name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: ${type}\r\nContent-Length: ${length}\r\n\r\n`,
  );
const cut = (reason: string, count: number): RegExp =>
  new RegExp(`prefixd_connections_cut_total\\{reason="${reason}"\\} ${count}\n`);
const closed = (app: TestApp): Promise<void> =>
  eventually(async () => /^prefixd_connections 0$/m.test(await app.metrics.render()));

/** The server's ends of all connections from now on. */
function serverSockets(app: TestApp): Socket[] {
  const sockets: Socket[] = [];
  app.fastify.server.on("connection", (socket: Socket) => void sockets.push(socket));
  return sockets;
}

async function eventually(condition: () => Promise<boolean>): Promise<void> {
  for (let left = 500; !(await condition()); left--) {
    if (left === 0) throw new Error(`never came true: ${String(condition)}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

t.test(
  "missing headers are answered 408, and the connection is closed even if the client keeps its end open",
  async (t) => {
    const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, headerMs: 100 } });
    const port = await app.listen();
    const [reads, never] = [
      paused(t, port, "GET / HTTP/1.1\r\nHos"),
      connect({ port, host: "127.0.0.1", allowHalfOpen: true }),
    ];
    t.teardown(() => never.destroy());
    never.write("GET /");
    t.match(await rest(reads), /^HTTP\/1\.1 408 [^]*"code":"request_timeout"/);
    await closed(app);
    t.match(await app.metrics.render(), cut("not_sending", 2));
  },
);

t.test("a JSON body that stops is answered 408; one in parts is not", async (t) => {
  const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, receiveMs: 200 } });
  const port = await app.listen();
  const body = JSON.stringify({ prompt: "ab", max_new_tokens: 1 });
  const stopped = paused(t, port, post(body.slice(0, 8), body.length));
  const pieces = paused(t, port, post(body.slice(0, 8), body.length));
  setTimeout(() => pieces.write(body.slice(8)), 100);
  t.match(await rest(stopped), /^HTTP\/1\.1 408 [^]*"code":"request_timeout"/);
  pieces.once("data", () => pieces.end());
  t.match(await rest(pieces), /^HTTP\/1\.1 200 /);
  await closed(app);
  await until(() => app.logs.some((line) => line.includes('"code":"request_timeout"')));
  t.match(await app.metrics.render(), cut("not_sending", 1));
});

t.test("uploads that stop or trickle lose their places to waiting ones", async (t) => {
  const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, receiveMs: 300 } });
  const port = await app.listen();
  const { payload, headers } = form(ADAPTER);
  const half = Buffer.concat([uploadHead("p", headers["content-type"]!, payload.length), payload.subarray(0, 100)]);
  const stalled = Array.from({ length: UPLOADS.runningOfUser }, () => paused(t, port, half));
  let sent = 100;
  const drip = setInterval(() => stalled[0]!.write(payload.subarray(sent, ++sent)), 50);
  t.teardown(() => clearInterval(drip));
  await until(() => app.traffic.open === stalled.length);
  const whole = await new Promise<string>((resolve, reject) => {
    request(
      { agent: false, host: "127.0.0.1", port, path: "/prefixes/q", method: "PUT", headers },
      (response) => void readAll(response).then((text) => resolve(`${response.statusCode} ${text}`)),
    )
      .on("error", reject)
      .end(payload);
  });
  t.match(whole, /^201 /);
  for (const socket of stalled)
    t.match(await rest(socket), /^HTTP\/1\.1 408 [^]*connection: close[^]*"code":"upload_stalled"/);
  await closed(app);
  t.match(await app.metrics.render(), cut("not_sending", stalled.length));
  t.equal((await app.fastify.inject("/prefixes/p")).statusCode, 404);
});

t.test("a slow upload continues while nobody waits, and gives way to another user's", async (t) => {
  const app = await buildTestApp(t, {
    keyed: true,
    uploads: { ...UPLOADS, running: 1, graceMs: 50, leastRate: 1e9 },
  });
  const port = await app.listen();
  const keyOf = async (id: string): Promise<string> => {
    const admin = { authorization: `Bearer ${ADMIN_KEY}` };
    await app.fastify.inject({ ...jsonPost("/admin/users", { id }), headers: admin });
    return (await app.fastify.inject({ method: "POST", url: `/admin/users/${id}/keys`, headers: admin })).json<{
      key: string;
    }>().key;
  };
  const [ann, bob] = [await keyOf("ann"), await keyOf("bob")];
  const { payload, headers } = form(ADAPTER);
  const begin = (name: string): Socket => {
    const head = uploadHead(name, headers["content-type"]!, payload.length)
      .toString()
      .replace("\r\n\r\n", `\r\nAuthorization: Bearer ${ann}\r\n\r\n`);
    return paused(t, port, Buffer.concat([Buffer.from(head), payload.subarray(0, 100)]));
  };
  const alone = begin("alone");
  await new Promise((resolve) => setTimeout(resolve, 200));
  alone.write(payload.subarray(100));
  t.match(await answer(alone), /^HTTP\/1\.1 201 /);
  await until(() => app.traffic.open === 0);
  const slow = begin("slow");
  await until(() => app.traffic.open === 1);
  const put = await fetch(`http://127.0.0.1:${port}/prefixes/quick`, {
    method: "PUT",
    headers: { ...headers, authorization: `Bearer ${bob}` },
    body: new Uint8Array(payload),
  });
  t.equal(put.status, 201);
  t.match(await rest(slow), /^HTTP\/1\.1 408 [^]*retry-after: 5[^]*"code":"upload_stalled"/i);
  t.same(
    [...app.registry.entries.values()].map(({ meta }) => meta.name),
    ["alone", "quick"],
  );
});

t.test(
  "with all upload places and the queue full, one more is answered 503; waiting ones get their turn",
  async (t) => {
    // Long enough for all of them to arrive before the first are cut.
    const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, receiveMs: 2_000 } });
    const port = await app.listen();
    const { payload, headers } = form(ADAPTER);
    const put = (name: string, bytes: Buffer): Socket =>
      paused(t, port, Buffer.concat([uploadHead(name, headers["content-type"]!, payload.length), bytes]));
    const stalled = Array.from({ length: UPLOADS.runningOfUser }, (_, i) =>
      put(`stalled-${i}`, payload.subarray(0, 100)),
    );
    await until(() => app.traffic.open === UPLOADS.runningOfUser);
    const waiting = Array.from({ length: UPLOADS.waitingOfUser }, (_, i) => put(`waiting-${i}`, payload));
    await until(() => app.traffic.open === UPLOADS.runningOfUser + UPLOADS.waitingOfUser);
    const refused = await fetch(`http://127.0.0.1:${port}/prefixes/more`, {
      method: "PUT",
      headers,
      body: new Uint8Array(payload),
    });
    t.equal(refused.status, 503);
    t.equal(refused.headers.get("retry-after"), "5");
    t.match(await refused.json(), { code: "uploads_busy" });
    t.equal(app.registry.entries.size, 0, "nobody has passed those who hold the places");
    for (const socket of stalled) t.match(await rest(socket), /^HTTP\/1\.1 408 [^]*"code":"upload_stalled"/);
    const answers = await Promise.all(waiting.map(answer));
    t.same(new Set(answers.map((text) => text.slice(0, 12))), new Set(["HTTP/1.1 201"]));
    t.equal(app.registry.entries.size, UPLOADS.waitingOfUser);
    t.equal(
      (await fetch(`http://127.0.0.1:${port}/prefixes/more`, { method: "PUT", headers, body: new Uint8Array(payload) }))
        .status,
      201,
    );
  },
);

t.test("an unread answer is cut off, a slowly read one is not", async (t) => {
  const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, sendMs: 1_000 } });
  // More than the kernel takes for both ends of a connection.
  app.fastify.get("/large", { config: { access: "public" } }, async () => Buffer.alloc(24 << 20));
  const port = await app.listen();
  const ask = "GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  const never = paused(t, port, ask);
  const slowly = paused(t, port, ask);
  let bytes = 0;
  for await (const chunk of slowly) {
    bytes += (chunk as Buffer).length;
    // Longer than the limit in all, in steps that are shorter.
    if (bytes > (24 << 20) * 0.1 && bytes < (24 << 20) * 0.9) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  t.ok(bytes > 24 << 20, "whole");
  await until(() => app.logs.some((line) => line.includes('"code":"too_slow"') && line.includes('"aborted":true')));
  never.destroy();
  await closed(app);
  t.match(await app.metrics.render(), cut("not_reading", 1));
});

t.test("an unread stream is cut off after a while, and its request cancelled", async (t) => {
  const app = await buildTestApp(t, {
    stream: { ...STREAM_DEFAULTS, bufferLimit: Infinity, heartbeatMs: 20, sendMs: 200 },
  });
  app.engine.stepMs = null;
  app.engine.script = (_request, _choice, k) => k % 256;
  const port = await app.listen();
  const sockets = serverSockets(app);
  const socket = paused(
    t,
    port,
    post(JSON.stringify({ prompt: "ab", stream: true, max_new_tokens: 60, logprobs: 20, n: 4, do_sample: true })),
  );
  await until(() => app.engine.submitted.length === 1);
  Object.assign(app.engine.submitted[0]!, { maxNewTokens: Infinity });
  // Until the kernel takes no more; then only heartbeats come.
  const unread = (one: Socket): number => one.writableLength - (one instanceof RelayedSocket ? one.inTransit : 0);
  while (unread(sockets[0]!) < 100_000) {
    for (let i = 0; i < 100; i++) {
      app.engine.step();
      await Promise.resolve();
    }
    await new Promise(setImmediate);
  }
  t.equal(app.engine.cancelled.length, 0);
  await until(() => app.engine.cancelled.length === 1);
  socket.destroy();
  await closed(app);
  t.match(await app.metrics.render(), /prefixd_requests_total\{outcome="too_slow"\} 1\n/);
  t.match(await app.metrics.render(), cut("not_reading", 1));
  await until(() => app.logs.some((line) => line.includes('"code":"too_slow"')));
});

t.test("a request refused before its body has arrived is the last of its connection", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  const port = await app.listen();
  const body = JSON.stringify({ prompt: "ab", max_new_tokens: 1 });
  const stopped = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  t.teardown(() => stopped.destroy());
  stopped.write(post(body.slice(0, 4), body.length));
  t.match(await rest(stopped), /^HTTP\/1\.1 401 [^]*connection: close\r\n[^]*"code":"unauthorized"/);
  await closed(app);
  const whole = paused(t, port, post(body));
  t.match(
    await answer(whole),
    /^HTTP\/1\.1 401 [^]*connection: keep-alive\r\n/i,
    "one that has arrived leaves its connection open",
  );
  await closed(app);
  await until(() => app.logs.filter((line) => line.includes('"status":401') && !line.includes("aborted")).length === 2);
});

t.test("a client that is still sending reads the refusal, and is not listened to for ever", async (t) => {
  const app = await buildTestApp(t);
  const port = await app.listen();
  // More than is allowed, and than the kernel takes for both ends: without somebody who reads it, it cannot be sent.
  const bytes = 7 << 20;
  const patient = paused(t, port, post("", bytes));
  patient.write(Buffer.alloc(bytes, " "));
  t.match(await answer(patient), /^HTTP\/1\.1 413 [^]*connection: close\r\n[^]*"code":"body_too_large"/i);
  const endless = connect({ port, host: "127.0.0.1", allowHalfOpen: true }).on("error", () => undefined);
  t.teardown(() => endless.destroy());
  endless.write(post("", 1 << 30));
  const chunk = Buffer.alloc(1 << 20, " ");
  const more = (): void => void (endless.writable && endless.write(chunk, more));
  more();
  t.match(await rest(endless).catch(String), /^HTTP\/1\.1 413 |ECONNRESET/);
  await closed(app);
});

t.test("requests behind a refused one on its connection are not carried out", async (t) => {
  const app = await buildTestApp(t, { keyed: true });
  let calls = 0;
  app.fastify.get("/follows", { config: { access: "public" } }, async () => ++calls);
  const port = await app.listen();
  const body = JSON.stringify({ prompt: "ab", max_new_tokens: 1 });
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  t.teardown(() => socket.destroy());
  socket.write(post(body.slice(0, 4), body.length));
  t.match(await firstAnswer(socket), /^HTTP\/1\.1 401 /);
  socket.write(`${body.slice(4)}GET /follows HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  t.equal(await rest(socket), "");
  await closed(app);
  await until(() => app.traffic.open === 0);
  t.equal(app.logs.filter((line) => line.includes('"msg":"request"')).length, 1);
  t.equal(calls, 0);
});

t.test("connections above the limit are closed at once", async (t) => {
  const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, maxConnections: 2 } });
  const port = await app.listen();
  const held = [paused(t, port, "GET"), paused(t, port, "GET")];
  await eventually(async () => /^prefixd_connections 2$/m.test(await app.metrics.render()));
  t.equal(await rest(paused(t, port, "GET")).catch(() => ""), "");
  t.match(await app.metrics.render(), cut("too_many", 1));
  held[0]!.destroy();
  await eventually(async () => /^prefixd_connections 1$/m.test(await app.metrics.render()));
  t.equal((await open(port, "/generate", { prompt: "ab", max_new_tokens: 1 })).statusCode, 200);
});

t.test(
  "connections at both addresses of localhost share one limit and one count",
  { skip: lacking("ipv6") },
  async (t) => {
    const app = await buildTestApp(t, { clients: { ...CLIENT_DEFAULTS, maxConnections: 2, headerMs: 1_000 } });
    const port = Number(new URL(await listenAt(app, ["127.0.0.1", "::1", "192.0.2.1"], 0)).port);
    t.ok(
      app.logs.some((line) => line.includes('"address":"192.0.2.1"')),
      "one that the machine does not have is said",
    );
    const second = (bytes: string): Socket => paused(t, port, bytes, "::1");
    t.match(await answer(second("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")), /^HTTP\/1\.1 200 /);
    await closed(app);
    const held = [paused(t, port, "GET"), second("GET")];
    await eventually(async () => /^prefixd_connections 2$/m.test(await app.metrics.render()));
    t.equal(await rest(second("GET")).catch(() => ""), "");
    await eventually(async () => cut("too_many", 1).test(await app.metrics.render()));
    t.match(await rest(held[1]!), /^HTTP\/1\.1 408 /, "times hold there, too");
    const idle = second("GET");
    await drain({ app, generation: app.generation, engine: app.engine }, { delay: Promise.resolve(), graceMs: 0 });
    await rest(idle).catch(() => "");
    await t.rejects(once(connect(port, "::1"), "connect"), { code: "ECONNREFUSED" });
  },
);

t.test("connections leave file descriptors for the rest of the process", async (t) => {
  const limits = (soft: string): string =>
    `Limit                     Soft Limit           Hard Limit           Units\nMax open files            ${soft}                 1048576              files\n`;
  t.equal(connectionsAllowed(limits("20000")), 19_488);
  t.equal(connectionsAllowed(limits("256")), 128);
  t.equal(connectionsAllowed(limits("unlimited")), Infinity);
  t.equal(connectionsAllowed(""), Infinity);
});
