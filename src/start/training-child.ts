/**
 * Entry point of the process that trains a job for a server. Argument: its niceness. It gives way to the server, and ends
 * with it: at once, as its state is on disk.
 */
import { setPriority } from "node:os";
import { lockFolder } from "../lmdb/folder-lock.ts";
import { Runtime } from "../runtime/session.ts";
import { runChild } from "../training/jobs/child.ts";
import { watchClaim } from "../training/jobs/claim-watch.ts";
import { Pacer } from "../training/jobs/pacer.ts";
import type { ChildTask, FromChild, ToChild } from "../training/jobs/protocol.ts";

// Before any other thread exists, since threads inherit it.
setPriority(Number(process.argv[2]));
// A kill, since exit() would wait for the model's threads.
process.once("disconnect", () => process.kill(process.pid, "SIGKILL"));
// A terminal and a service manager signal the whole group; the server says what to do.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});

// A server that hangs may serve nobody whose removal it has not heard of, nor may this process.
const held = watchClaim(() => process.kill(process.pid, "SIGKILL"));
const stop = new AbortController();
let pacer: Pacer | null = null;
let busy = false;
process.on("message", (message: ToChild) => {
  if (message.kind === "held") held();
  if (message.kind === "stop") stop.abort();
  if (message.kind === "busy") {
    busy = message.busy;
    if (pacer !== null) pacer.busy = busy;
  }
  if (message.kind === "start") void run(message.task);
});

async function run(task: ChildTask): Promise<void> {
  try {
    // An earlier server's child may still be on its way out.
    await lockFolder(task.folder);
    pacer = new Pacer(task.share);
    pacer.busy = busy;
    using runtime = new Runtime();
    await runChild(runtime, task, { pacer, signal: stop.signal, send: (message) => void process.send!(message) });
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
    process.exitCode = 1;
  }
  // Once all messages are on their way; `disconnect` would end it by a kill.
  process.removeAllListeners("disconnect");
  process.send!({ kind: "bye" } satisfies FromChild, () => process.exit());
}
