import { parentPort, workerData } from "node:worker_threads";
import { PrefixdError } from "../errors.ts";
import { OPENED, type Call, type Failure, type Reply } from "./worker-protocol.ts";

/**
 * The thread's end of WorkerCalls: opens the tables with the given options, then answers calls of the named methods one
 * by one. `what` names the store in errors.
 */
export function serveCalls<T extends { close(): Promise<void> }>(
  open: (options: unknown) => T,
  methods: readonly (keyof T & string)[],
  what: string,
): void {
  const known: ReadonlySet<string> = new Set(methods);
  let tables: T | undefined;

  const reply = async (id: number, work: () => unknown): Promise<void> => {
    let message: Reply;
    try {
      message = { id, value: await work() };
    } catch (error) {
      message = { id, failure: describe(error, what) };
    }
    const buffers =
      "value" in message && message.value instanceof Uint8Array ? [message.value.buffer as ArrayBuffer] : [];
    parentPort?.postMessage(message, buffers);
  };

  // Calls run one by one, in order of arrival.
  let last: Promise<void> = reply(OPENED, () => {
    tables = open(workerData);
  });
  parentPort?.on("message", ({ id, method, args }: Call) => {
    last = last.then(() => {
      const target = tables;
      if (target === undefined) return undefined;
      if (method === "close") {
        return target.close().then(
          () => parentPort?.close(),
          () => process.exit(1),
        );
      }
      return reply(id, () => {
        if (!known.has(method)) throw new Error(`no such method: ${method}`);
        return (target[method as keyof T] as (...args: readonly unknown[]) => unknown).apply(target, [...args]);
      });
    });
  });
}

function describe(error: unknown, what: string): Failure {
  const cause = error instanceof Error ? (error.stack ?? error.message) : String(error);
  if (error instanceof PrefixdError) return { code: error.code, detail: error.message, cause };
  return { code: "store_unavailable", detail: `The ${what} cannot read or write its files.`, cause };
}
