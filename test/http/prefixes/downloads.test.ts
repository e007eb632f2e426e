/** Downloads over a real store: nobody makes the server hold files that nobody takes. */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import t, { type Test } from "tap";
import { kvElements } from "../../../src/kv.ts";
import { DOWNLOADS } from "../../../src/http/prefixes/transfer-gate.ts";
import { createPrefixCache } from "../../../src/prefixes/cache.ts";
import { openLmdbStore } from "../../../src/lmdb/prefix-store.ts";
import { createPrefixRegistry } from "../../../src/prefixes/registry.ts";
import type { PrefixStore } from "../../../src/prefixes/store.ts";
import { BASE, record, SHAPE } from "../../prefixes/records.ts";
import { buildTestApp, until, type TestApp } from "../../support/app.ts";
import { effort } from "../../support/effort.ts";

const FILE = "adapter_model.safetensors";
const BYTES = 24 << 20;

interface Setup extends TestApp {
  readonly port: number;
  readonly store: PrefixStore;
  /** Resolves when nothing is under way; then `reads` counts from zero. */
  readonly idle: () => Promise<void>;
  /** Chunks that were read. */
  readonly reads: () => number;
}

/** A server whose user `local` has the prefix `big`, of one file of 24 MiB. */
async function setUp(): Promise<Setup> {
  const store = await openLmdbStore({ dir: t.testdir({}) });
  t.teardown(() => store.close());
  let reads = 0;
  const loadFile = store.loadFile.bind(store);
  store.loadFile = (...args) => (reads++, loadFile(...args));
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 1 << 20, verifyMs: 0 });
  const fold = async (): Promise<{ length: number; data: Float32Array }> => ({
    length: 1,
    data: new Float32Array(kvElements(SHAPE, 1)),
  });
  const prefixes = createPrefixRegistry({
    store,
    cache,
    shape: SHAPE,
    baseFingerprint: BASE,
    fold,
    tryPrefix: async () => {},
  });
  const app = await buildTestApp(t, {
    prefixes,
    clients: {
      maxConnections: Infinity,
      headerMs: 20_000,
      requestMs: 300_000,
      receiveMs: 10_000,
      sendMs: 60_000,
      keepAliveMs: 72_000,
    },
  });
  await put(store, 1);
  const idle = async (): Promise<void> => {
    await until(() => app.traffic.open === 0);
    reads = 0;
  };
  return { ...app, port: await app.listen(), store, idle, reads: () => reads };
}

/** All have the same tensors, and so the same digest: only the file differs. */
async function put(store: PrefixStore, seed: number): Promise<void> {
  const made = await record({ user: "local", name: "big" }, 1, { files: new Map([[FILE, pattern(seed)]]) });
  await store.put({ ...made, meta: { ...made.meta, updatedAt: new Date(seed * 1000).toISOString() } });
}

const patterns = new Map<number, Uint8Array>();

/** No two chunks of it are the same. */
function pattern(seed: number): Uint8Array {
  const made = patterns.get(seed);
  if (made !== undefined) return made;
  const words = new Uint32Array(BYTES / 4);
  for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + seed, 2_654_435_761);
  const bytes = new Uint8Array(words.buffer);
  patterns.set(seed, bytes);
  return bytes;
}

const { port, store, traffic, idle, reads } = await setUp();

const URL_PATH = `/prefixes/big/adapter/${FILE}`;

function unread(t: Test): Socket {
  const socket = connect(port, "127.0.0.1").on("error", () => undefined);
  socket.pause();
  socket.write(`GET ${URL_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  t.teardown(() => socket.destroy());
  return socket;
}

/** The answer's body, as far as it comes. */
async function rest(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  const all = Buffer.concat(chunks);
  return all.subarray(all.indexOf("\r\n\r\n") + 4);
}

/** Resolves when `count` has not changed for a while. */
async function settled(count: () => number): Promise<number> {
  for (let before = -1; ; ) {
    if (count() === before) return before;
    before = count();
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

t.test("a file arrives byte for byte, with its length; HEAD reads only its first chunk", async (t) => {
  await idle();
  const answer = await fetch(`http://127.0.0.1:${port}${URL_PATH}`);
  t.equal(answer.headers.get("content-length"), String(BYTES));
  t.equal(answer.headers.get("content-type"), "application/octet-stream");
  t.equal(Buffer.compare(Buffer.from(await answer.arrayBuffer()), pattern(1)), 0);
  await idle();
  const head = await fetch(`http://127.0.0.1:${port}${URL_PATH}`, { method: "HEAD" });
  t.equal(head.status, 200);
  t.equal(head.headers.get("content-length"), String(BYTES));
  t.equal(reads(), 1, "that there is such a file is seen by its first chunk");
});

t.test(
  "unread files hold little memory; a user's downloads are limited, and the next start as places free up",
  async (t) => {
    await idle();
    const sockets = Array.from({ length: DOWNLOADS.runningOfUser + effort({ short: 1, long: 3 }) }, () => unread(t));
    await until(() => traffic.open === sockets.length && reads() >= DOWNLOADS.runningOfUser);
    const read = await settled(reads);
    // What the sockets' own buffers take is the system's: a few MB each on loopback.
    t.ok(read < (DOWNLOADS.runningOfUser * BYTES) / (512 * 1024) / 2, `${read} chunks`);
    const whole = await Promise.all(sockets.map(rest));
    t.ok(
      whole.every((bytes) => Buffer.compare(bytes, pattern(1)) === 0),
      "all come whole in the end",
    );
    t.equal(reads(), (sockets.length * BYTES) / (512 * 1024));
  },
);

t.test("a client that leaves frees its place", async (t) => {
  await idle();
  const first = Array.from({ length: DOWNLOADS.runningOfUser }, () => unread(t));
  await until(() => reads() >= first.length);
  const waiting = unread(t);
  await until(() => traffic.open === first.length + 1);
  first[0]!.destroy();
  t.equal(Buffer.compare(await rest(waiting), pattern(1)), 0);
});

t.test("replacing a prefix cuts its downloads off: two versions are never mixed", async (t) => {
  await idle();
  const socket = unread(t);
  await once(socket, "connect");
  await until(() => reads() > 0);
  await settled(reads);
  await put(store, 2);
  const bytes = await rest(socket);
  t.ok(bytes.length > 0 && bytes.length < BYTES, `${bytes.length} bytes`);
  t.equal(Buffer.compare(bytes, pattern(1).subarray(0, bytes.length)), 0);
  const again = await fetch(`http://127.0.0.1:${port}${URL_PATH}`);
  t.equal(Buffer.compare(Buffer.from(await again.arrayBuffer()), pattern(2)), 0);
});
