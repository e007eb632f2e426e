/** Entry of the thread that owns the LMDB environment; see lmdb-store.ts for the other end. */
import { parentPort, workerData } from "node:worker_threads";
import { PrefixdError } from "../errors.ts";
import type { ErrorCode } from "../errors.ts";
import { LmdbTables } from "./lmdb-tables.ts";
import type { LmdbOptions } from "./lmdb-tables.ts";

export type LmdbMethod = "put" | "head" | "loadKv" | "loadFile" | "list" | "delete" | "deleteUser" | "ping" | "close";

export interface LmdbCall {
  readonly id: number;
  readonly method: LmdbMethod;
  readonly args: readonly unknown[];
}

/** Errors as plain data: a class does not survive the way between threads. */
export interface LmdbFailure {
  readonly code: ErrorCode;
  readonly detail: string;
  readonly cause: string;
}

export type LmdbReply = { readonly id: number } & ({ readonly value: unknown } | { readonly failure: LmdbFailure });

/** The id of the message that says whether the environment could be opened. */
export const OPENED = 0;

function describe(error: unknown): LmdbFailure {
  const cause = error instanceof Error ? (error.stack ?? error.message) : String(error);
  if (error instanceof PrefixdError) return { code: error.code, detail: error.message, cause };
  return { code: "store_unavailable", detail: "The prefix store cannot read or write its files.", cause };
}

async function reply(id: number, work: () => unknown): Promise<void> {
  let message: LmdbReply;
  try {
    message = { id, value: await work() };
  } catch (error) {
    message = { id, failure: describe(error) };
  }
  const buffers = "value" in message && message.value instanceof Uint8Array ? [message.value.buffer as ArrayBuffer] : [];
  parentPort?.postMessage(message, buffers);
}

let tables: LmdbTables | undefined;

/** Calls are carried out one after the other, in the order in which they came. */
let last: Promise<void> = reply(OPENED, () => {
  tables = new LmdbTables(workerData as LmdbOptions);
});

parentPort?.on("message", ({ id, method, args }: LmdbCall) => {
  last = last.then(() => {
    const open = tables;
    if (open === undefined) return undefined;
    if (method !== "close") return reply(id, () => (open[method] as (...args: readonly unknown[]) => unknown).apply(open, [...args]));
    return open.close().then(
      () => parentPort?.close(),
      () => process.exit(1),
    );
  });
});
