import { Worker } from "node:worker_threads";
import { PrefixdError } from "../errors.ts";
import { OPENED, type Reply } from "./worker-protocol.ts";

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** The thread and its pending calls. */
interface Thread {
  readonly worker: Worker;
  readonly pending: Map<number, Pending>;
  readonly opened: Promise<unknown>;
  readonly ended: Promise<void>;
}

/** Methods of tables on a thread, as seen from this one. */
type Answer<T, M extends keyof T> = T[M] extends (...args: never[]) => infer R ? Promise<Awaited<R>> : never;
type Args<T, M extends keyof T> = T[M] extends (...args: infer A) => unknown ? A : never;

/**
 * Calls to an embedded database on its own thread: fsync and large copies take milliseconds, and decoding must not wait
 * for the disk. `worker` is the URL of the thread's entry point without extension; `what` names the store in errors.
 * The next call restarts a thread that has ended.
 */
export class WorkerCalls<T> {
  readonly #entry: string;
  readonly #options: unknown;
  readonly #what: string;
  #thread: Thread | undefined;
  #lastId = OPENED;
  #closed = false;

  constructor(entry: string, options: unknown, what: string) {
    this.#entry = entry;
    this.#options = options;
    this.#what = what;
  }

  async call<M extends keyof T & string>(method: M, ...args: Args<T, M>): Promise<Awaited<Answer<T, M>>> {
    if (this.#closed) throw this.#unavailable("the store is closed");
    const thread = (this.#thread ??= this.#start());
    await thread.opened;
    const value = await new Promise<unknown>((resolve, reject) => {
      const id = ++this.#lastId;
      thread.pending.set(id, { resolve, reject });
      thread.worker.postMessage({ id, method, args });
    });
    return value as Awaited<Answer<T, M>>;
  }

  async close(): Promise<void> {
    this.#closed = true;
    const thread = this.#thread;
    if (thread === undefined) return;
    await thread.opened.catch(() => {});
    thread.worker.postMessage({ id: ++this.#lastId, method: "close", args: [] });
    await thread.ended;
  }

  #start(): Thread {
    const worker = startWorker(this.#entry, this.#options);
    const pending = new Map<number, Pending>();
    const opened = new Promise<unknown>((resolve, reject) => pending.set(OPENED, { resolve, reject }));
    opened.catch(() => void worker.terminate());
    worker.on("message", (reply: Reply) => {
      const call = pending.get(reply.id);
      pending.delete(reply.id);
      if ("value" in reply) call?.resolve(reply.value);
      else call?.reject(failure(reply.failure.code, reply.failure.detail, remoteError(reply.failure.cause)));
    });
    let reason: unknown = "the thread ended";
    worker.on("error", (error) => (reason = error));
    const ended = new Promise<void>((resolve) => {
      worker.once("exit", () => {
        if (this.#thread?.worker === worker) this.#thread = undefined;
        for (const call of pending.values()) call.reject(this.#unavailable(reason));
        resolve();
      });
    });
    return { worker, pending, opened, ended };
  }

  #unavailable(cause: unknown): PrefixdError {
    return failure("store_unavailable", `The ${this.#what} is not running.`, cause);
  }
}

/** Types and `using`. */
const RUNS_SOURCES = Number(process.versions.node.split(".")[0]) >= 24;

/**
 * The build is plain JavaScript, and its thread needs none of the process's flags: what they preload would be loaded again. Node runs the
 * sources from 24 on; before that tsx does, which threads do not inherit.
 */
function startWorker(entry: string, options: unknown): Worker {
  const isSource = import.meta.url.endsWith(".ts");
  if (!isSource) return new Worker(new URL(`${entry}.js`), { workerData: options, execArgv: [] });
  if (RUNS_SOURCES) return new Worker(new URL(`${entry}.ts`), { workerData: options });
  const tsx = import.meta.resolve("tsx/esm/api");
  const start = `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(`${entry}.ts`)}); })`;
  return new Worker(start, { eval: true, workerData: options });
}

/** Rebuilds the thread's error from its stack, for the operator's log. */
function remoteError(stack: string): Error {
  const [first = ""] = stack.split("\n");
  const error = new Error(first.replace(/^\w*Error: /, ""));
  error.stack = stack;
  return error;
}

function failure(code: PrefixdError["code"], detail: string, cause: unknown): PrefixdError {
  return new PrefixdError(code, detail, code === "store_unavailable" ? { cause, retryAfter: 5 } : { cause });
}
