import { Worker } from "node:worker_threads";
import { PrefixdError } from "../errors.ts";
import type { LmdbOptions, LmdbTables } from "./lmdb-tables.ts";
import type { LmdbMethod, LmdbReply } from "./lmdb-worker.ts";
import type { PrefixKey, PrefixMeta, PrefixRecord, PrefixStore, Precondition, RemovalState, RemovedPrefixes } from "./store.ts";
import { Tombstones } from "./tombstones.ts";

export type { LmdbOptions } from "./lmdb-tables.ts";

/**
 * Opens (or makes) the embedded store in a folder. A PUT that was answered is on disk. Other processes may use the folder at
 * the same time, but are not told of changes. Throws `store_unavailable`, with the reason as `cause`, when it cannot be opened.
 */
export async function openLmdbStore(options: LmdbOptions): Promise<PrefixStore> {
  const store = new LmdbStore(options);
  await store.ping();
  return store;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

type Answer<M extends LmdbMethod> = Promise<Awaited<ReturnType<LmdbTables[M]>>>;

/** The thread and the calls that wait for it. */
interface Thread {
  readonly worker: Worker;
  readonly pending: Map<number, Pending>;
  readonly opened: Promise<unknown>;
  readonly ended: Promise<void>;
}

/** fsync and large copies take milliseconds: a thread of its own does them, so that decoding never waits for the disk. */
class LmdbStore implements PrefixStore {
  readonly #options: LmdbOptions;
  readonly #removed = new Tombstones();
  #thread: Thread | undefined;
  #lastId = 0;
  #closed = false;

  constructor(options: LmdbOptions) {
    this.#options = options;
  }

  async put(record: PrefixRecord, precondition?: Precondition): Promise<{ created: boolean }> {
    this.#removed.check(record.meta.user);
    const files = new Map([...record.files].map(([name, bytes]) => [name, compact(bytes)]));
    return this.#call("put", { meta: record.meta, kv: compact(record.kv), files }, precondition);
  }

  head(key: PrefixKey): Promise<PrefixMeta | null> {
    return this.#call("head", plain(key));
  }

  loadKv(key: PrefixKey, digest: string): Promise<Uint8Array | null> {
    return this.#call("loadKv", plain(key), digest);
  }

  loadFile(key: PrefixKey, digest: string, file: string): Promise<Uint8Array | null> {
    return this.#call("loadFile", plain(key), digest, file);
  }

  list(user: string, options: { after?: string; limit: number }): Promise<PrefixMeta[]> {
    return this.#call("list", user, options);
  }

  delete(key: PrefixKey, precondition?: Precondition): Promise<boolean> {
    return this.#call("delete", plain(key), precondition);
  }

  /** Calls are carried out in order: a PUT of before is deleted, one that comes later is refused here. */
  deleteUser(user: string, { last = false }: { last?: boolean } = {}): Promise<RemovedPrefixes> {
    this.#removed.add(user, last ? "done" : "open");
    return this.#call("deleteUser", user);
  }

  async removalState(user: string): Promise<RemovalState> {
    return this.#removed.state(user);
  }

  async readmitUser(user: string): Promise<void> {
    this.#removed.delete(user);
  }

  onChange(): () => void {
    return () => {};
  }

  ping(): Promise<void> {
    return this.#call("ping");
  }

  async close(): Promise<void> {
    this.#closed = true;
    const thread = this.#thread;
    if (thread === undefined) return;
    await thread.opened.catch(() => {});
    thread.worker.postMessage({ id: ++this.#lastId, method: "close", args: [] });
    await thread.ended;
  }

  async #call<M extends LmdbMethod>(method: M, ...args: Parameters<LmdbTables[M]>): Answer<M> {
    if (this.#closed) throw unavailable("the store is closed");
    const thread = (this.#thread ??= this.#start());
    await thread.opened;
    return new Promise<unknown>((resolve, reject) => {
      const id = ++this.#lastId;
      thread.pending.set(id, { resolve, reject });
      thread.worker.postMessage({ id, method, args });
    }) as Answer<M>;
  }

  #start(): Thread {
    const worker = startWorker(this.#options);
    const pending = new Map<number, Pending>();
    const opened = new Promise<unknown>((resolve, reject) => pending.set(0, { resolve, reject }));
    opened.catch(() => void worker.terminate());
    worker.on("message", (reply: LmdbReply) => {
      const call = pending.get(reply.id);
      pending.delete(reply.id);
      if ("value" in reply) call?.resolve(reply.value);
      else call?.reject(failure(reply.failure.code, reply.failure.detail, reply.failure.cause));
    });
    let reason: unknown = "the thread ended";
    worker.on("error", (error) => (reason = error));
    const ended = new Promise<void>((resolve) => {
      worker.once("exit", () => {
        // The next call starts a new thread.
        if (this.#thread?.worker === worker) this.#thread = undefined;
        for (const call of pending.values()) call.reject(unavailable(reason));
        resolve();
      });
    });
    return { worker, pending, opened, ended };
  }
}

/** tsx, which runs the sources in tests and development, does not reach into threads by itself; the build is plain JavaScript. */
function startWorker(options: LmdbOptions): Worker {
  if (!import.meta.url.endsWith(".ts")) return new Worker(new URL("./lmdb-worker.js", import.meta.url), { workerData: options });
  const [tsx, entry] = [import.meta.resolve("tsx/esm/api"), new URL("./lmdb-worker.ts", import.meta.url).href];
  const start = `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(entry)}); })`;
  return new Worker(start, { eval: true, workerData: options });
}

function failure(code: PrefixdError["code"], detail: string, cause: unknown): PrefixdError {
  return new PrefixdError(code, detail, code === "store_unavailable" ? { cause, retryAfter: 5 } : { cause });
}

function unavailable(cause: unknown): PrefixdError {
  return failure("store_unavailable", "The prefix store is not running.", cause);
}

/** Sending a view sends all of the buffer behind it. */
function compact(bytes: Uint8Array): Uint8Array {
  return bytes.byteLength === bytes.buffer.byteLength ? bytes : new Uint8Array(bytes);
}

function plain({ user, name }: PrefixKey): PrefixKey {
  return { user, name };
}
