/** Clients that do not end what they begin: others are answered all the same, and nothing stays behind. */
import { readFileSync, readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { exchange, openSocket, requestBytes, type RawRequest } from "./support/raw-http.ts";
import { formBytes, FORM_TYPE } from "./support/requests.ts";
import { effort } from "../support/effort.ts";
import { runsOf } from "./support/runs.ts";
import { ADMIN_KEY, startFuzzServer } from "./support/server.ts";

// No request here may end for its time: what is tested is what it costs the others meanwhile.
const server = await startFuzzServer(t, [
  "--max-queue",
  "2000",
  "--receive-timeout",
  "60",
  "--header-timeout",
  "60",
  "--request-timeout",
  "120",
]);
const witness = await server.createUser("witness");
await server.put(witness, "known", "intent");
const expected = await server.ask(witness, "known");

const files = ["adapter_config.json", "adapter_model.safetensors"].map((file): [string, Uint8Array] => [
  file,
  readFileSync(join("prefixes/intent", file)),
]);
const upload = (name: string): RawRequest => ({
  method: "PUT",
  target: `/prefixes/${name}`,
  headers: [
    ["authorization", `Bearer ${ADMIN_KEY}`],
    ["content-type", FORM_TYPE],
  ],
  body: formBytes(files),
});
const registered = async (): Promise<string[]> =>
  ((await server.json(ADMIN_KEY, "GET", "/prefixes?limit=1000")).body["prefixes"] as { id: string }[])
    .map(({ id }) => id)
    .sort();

/** A stream of the user's, as bytes. */
const streamBytes = (key: string, body: object): Buffer =>
  requestBytes({
    method: "POST",
    target: "/generate",
    headers: [
      ["authorization", `Bearer ${key}`],
      ["content-type", "application/json"],
    ],
    body: Buffer.from(JSON.stringify({ prompt: "a", stream: true, ignore_eos: true, ...body })),
  });
const openFiles = (): number => readdirSync("/proc/self/fd").length;
/** What a server that nobody asks anything looks like. */
async function nothingLeft(t: Test, files: number): Promise<void> {
  await server.idle();
  // The one that asks.
  for (let left = 500; left > 0 && ((await server.metric("prefixd_connections")) > 1 || openFiles() > files); left--)
    await sleep(10);
  t.equal(await server.metric("prefixd_connections"), 1);
  t.ok(openFiles() <= files, `${openFiles()} open files, ${files} before`);
  t.same(server.errors(), [], "no errors in the log");
}

const MANY = effort({ short: 150, long: 1000 });

t.test(
  `${MANY} streams that nobody reads, and requests that stay half sent beside them, change nothing for a polite user`,
  async (t) => {
    const hostile = await server.createUser("hostile");
    await server.ask(witness, "known");
    const files = openFiles();
    const sockets: Socket[] = await Promise.all(
      Array.from({ length: MANY }, async (_, i) => {
        const socket = (await openSocket(server.port)).pause();
        const bytes = streamBytes(hostile, { max_new_tokens: 48 });
        socket.write(i % 2 === 0 ? bytes : bytes.subarray(0, i % bytes.length));
        return socket;
      }),
    );
    for (let asked = 0; asked < effort({ short: 2, long: 5 }); asked++)
      t.same(await server.ask(witness, "known"), expected);
    t.ok(
      (await server.metric("prefixd_queue_depth")) + (await server.metric("prefixd_running_sequences")) > 0,
      "before the streams had ended",
    );
    for (const socket of sockets) socket.destroy();
    await nothingLeft(t, files);
  },
);

t.test("whoever leaves while a request waits, is fed or decodes frees what it held", async (t) => {
  const files = openFiles();
  const key = await server.createUser("leaver");
  // 32 rows: some run, some wait. Leaving at random times meets every phase; the long prompts are fed in many steps.
  const prompt = Array.from({ length: 300 }, (_, i) => i % 200);
  await Promise.all(
    Array.from({ length: effort({ short: 80, long: 200 }) }, async (_, i) => {
      const socket = await openSocket(server.port);
      socket.write(streamBytes(key, { prompt, max_new_tokens: 150, stream: i % 3 !== 0 }));
      if (i % 4 === 0)
        await Promise.race([
          new Promise((resolve) => socket.once("data", resolve)),
          sleep(2000, undefined, { ref: false }),
        ]);
      else await sleep((i * 37) % 600);
      // Some say that they leave, some reset the connection.
      if (i % 2 === 0) socket.destroy();
      else socket.resetAndDestroy();
    }),
  );
  await nothingLeft(t, files);
  t.same(await server.ask(witness, "known"), expected);
});

t.test("connections by the hundred that come and go, with nothing, garbage or floods of headers", async (t) => {
  const files = openFiles();
  const sent: readonly (string | Buffer)[] = [
    "",
    "\r\n\r\n\r\n",
    "GET",
    Buffer.alloc(3000, 0xff),
    `GET / HTTP/1.1\r\n${"a: b\r\n".repeat(6000)}`,
    `GET /${"a".repeat(40_000)} HTTP/1.1\r\n\r\n`,
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "GET /health/live HTTP/1.0\r\n\r\n",
  ];
  for (let round = 0; round < effort({ short: 6, long: 50 }); round++) {
    await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const socket = await openSocket(server.port);
        socket.write(sent[i % sent.length]!);
        if (i % 3 === 0) await new Promise(setImmediate);
        if (i % 2 === 0) socket.destroy();
        else socket.resetAndDestroy();
      }),
    );
  }
  await nothingLeft(t, files);
  t.same(await server.ask(witness, "known"), expected);
});

t.test("many requests on one connection, sent before any answer is read, are answered in order", async (t) => {
  const files = openFiles();
  const socket = (await openSocket(server.port)).pause();
  const ask = (target: string, connection: string): string =>
    `GET ${target} HTTP/1.1\r\nHost: localhost\r\nConnection: ${connection}\r\n\r\n`;
  const paths = Array.from({ length: 500 }, (_, i) => (i % 2 === 0 ? "/health/live" : `/none/${i}`));
  socket.write(paths.map((path, i) => ask(path, i === paths.length - 1 ? "close" : "keep-alive")).join(""));
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));
  // What does not exist is not told to strangers.
  t.same(
    statuses,
    paths.map((path) => (path === "/health/live" ? 200 : 401)),
  );
  await nothingLeft(t, files);
});

t.test("uploads that are broken off leave no file and no memory of them", async (t) => {
  const before = await registered();
  const files = openFiles();
  const bytes = requestBytes(upload("aborted"));
  for (let round = 0; round < effort({ short: 4, long: 10 }); round++) {
    await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const socket = await openSocket(server.port);
        socket.write(bytes.subarray(0, Math.floor((bytes.length - 1) * ((i + 1) / 21))));
        await sleep((i * 7) % 40);
        if (i % 2 === 0) socket.destroy();
        else socket.resetAndDestroy();
      }),
    );
  }
  await nothingLeft(t, files);
  t.same(await registered(), before);
  t.equal((await exchange(server.port, requestBytes(upload("aborted"))))?.status, 201, "all places are free");
  t.equal(
    (
      await exchange(
        server.port,
        requestBytes({
          ...upload("aborted"),
          method: "DELETE",
          body: null,
          headers: upload("aborted").headers.slice(0, 1),
        }),
      )
    )?.status,
    204,
  );
});

t.test(`${MANY} connections with half a request each stop nobody`, async (t) => {
  const body = Buffer.from(JSON.stringify({ prompt: "a", max_new_tokens: 1 }));
  const generate = requestBytes({
    method: "POST",
    target: "/generate",
    headers: [
      ["authorization", `Bearer ${ADMIN_KEY}`],
      ["content-type", "application/json"],
    ],
    body,
  });
  // Nothing at all, half the head, the head alone, and all but the last byte.
  const cuts = [0, 20, generate.length - body.length, generate.length - 1];
  const sockets = await Promise.all(
    Array.from({ length: MANY }, async (_, i) => {
      const socket = await openSocket(server.port);
      socket.write(generate.subarray(0, cuts[i % cuts.length]));
      return socket;
    }),
  );
  t.same(await server.ask(witness, "known"), expected);
  t.equal(await server.metric("prefixd_running_sequences"), 0);
  t.ok(
    sockets.every((socket) => !socket.destroyed),
    "all are still open",
  );
  for (const socket of sockets) socket.destroy();
  t.same(await server.ask(witness, "known"), expected);
});

t.test(
  "uploads that stop in the middle hold up those that wait for their turn until they are gone, and no longer",
  async (t) => {
    const whole = requestBytes(upload("stalled"));
    const stalled = await Promise.all(Array.from({ length: 12 }, () => openSocket(server.port)));
    for (const [i, socket] of stalled.entries()) socket.write(whole.subarray(0, whole.length - 1 - i * 5000));
    t.same(await server.ask(witness, "known"), expected, "what is no upload goes on");
    for (const socket of stalled) socket.destroy();
    t.equal((await exchange(server.port, requestBytes(upload("after"))))?.status, 201);
    t.notOk((await registered()).includes("stalled"), "half an upload is none");
  },
);

t.test("an upload cut off at any byte changes nothing", async (t) => {
  const before = await registered();
  const request = upload("cut");
  const bytes = request.body!;
  const [start, end] = [bytes.length - 600, bytes.length];
  const lastPart = bytes.length - "\r\n------fuzz--\r\n".length;
  const places = Array.from({ length: runsOf(300) }, (_, i) =>
    i % 3 === 0 ? i : i % 3 === 1 ? start + ((i * 7) % (end - start)) : (i * 7919) % bytes.length,
  );
  const answers = new Set<string>();
  for (let at = 0; at < places.length; at += 16) {
    await Promise.all(
      places.slice(at, at + 16).map(async (place) => {
        // As a whole request with a part of the body, and as one that ends before its Content-Length does.
        const short = await exchange(server.port, requestBytes({ ...request, body: bytes.subarray(0, place) }));
        const { code } = JSON.parse(short?.body.toString() || "{}") as { code?: string };
        answers.add(`${code ?? short?.status} ${place < lastPart ? "before" : "behind"} the end of the files`);
        const broken = await exchange(
          server.port,
          requestBytes(request).subarray(0, requestBytes(request).length - end + place),
          { hangUp: true },
        );
        if (broken !== null && broken.status >= 500) t.fail(`${broken.status} at byte ${place}`);
      }),
    );
  }
  t.same(
    [...answers].filter((answer) => !/^(invalid_request|upload_incomplete) |behind/.test(answer)),
    [],
  );
  await exchange(
    server.port,
    requestBytes({ ...request, method: "DELETE", body: null, headers: request.headers.slice(0, 1) }),
  );
  t.same(await registered(), before);
});

t.test("streams whose readers leave at any event leave nothing behind", async (t) => {
  const body = Buffer.from(
    JSON.stringify({ prompt: "i want to book a flight", max_new_tokens: 200, ignore_eos: true, stream: true }),
  );
  const bytes = requestBytes({
    method: "POST",
    target: "/generate",
    headers: [
      ["authorization", `Bearer ${ADMIN_KEY}`],
      ["content-type", "application/json"],
    ],
    body,
  });
  await Promise.all(
    Array.from({ length: 40 }, async (_, i) => {
      const socket = await openSocket(server.port);
      let events = 0;
      const left = new Promise<void>((resolve) =>
        socket.on("data", () => void (events++ >= i % 8 && (socket.destroy(), resolve()))),
      );
      socket.write(bytes);
      await Promise.race([left, sleep(30_000, undefined, { ref: false })]);
      socket.destroy();
    }),
  );
  await server.idle();
  t.same(await server.ask(witness, "known"), expected);
  t.same(server.errors(), [], "no errors in the log");
});
