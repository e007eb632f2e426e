import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bareNode, SOURCES } from "./program.ts";

export type ReplicaCall =
  | { readonly op: "create" | "remove" | "holds"; readonly user: string }
  | { readonly op: "put"; readonly user: string; readonly name: string; readonly seed: number; readonly length: number }
  | {
      readonly op: "run";
      readonly id: number;
      readonly user: string;
      readonly name: string;
      readonly prompt: readonly number[];
      readonly max: number;
    }
  | { readonly op: "removePrefix"; readonly user: string; readonly name: string }
  | { readonly op: "dirtyRows" | "mayServe" | "id" };

export interface RunResult {
  readonly ids: number[];
  readonly logprobs: number[];
  /** When the last tokens were delivered, in microseconds of the machine's monotonic clock; 0: never. */
  readonly lastAt: number;
  readonly end: string;
}

type Reply = { readonly id: number; readonly value?: unknown; readonly failure?: string };

/** A replica in its own process; ended by pid. */
export class ReplicaProcess {
  readonly child: ChildProcess;
  readonly ready: Promise<unknown>;
  readonly #pending = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  #calls = 0;

  constructor(url: string, leaseMs = 10_000) {
    const [execPath, execArgv] = bareNode(...SOURCES);
    // What it would remove at its end, which tests do not let it have.
    const temporary = mkdtempSync(join(tmpdir(), "prefixd-replica-"));
    this.child = fork(new URL("./replica.ts", import.meta.url).pathname, [url, String(leaseMs)], {
      execPath,
      execArgv: [...execArgv],
      env: { ...process.env, TMPDIR: temporary },
    });
    this.ready = new Promise((resolve, reject) => this.#pending.set(0, { resolve, reject }));
    this.child.on("message", (reply: Reply) => {
      const call = this.#pending.get(reply.id);
      this.#pending.delete(reply.id);
      if (reply.failure === undefined) call?.resolve(reply.value);
      else call?.reject(new Error(reply.failure));
    });
    this.child.once("exit", () => {
      rmSync(temporary, { recursive: true });
      for (const call of this.#pending.values()) call.reject(new Error("exited"));
    });
  }

  call(call: ReplicaCall): Promise<unknown> {
    const id = ++this.#calls;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, { resolve, reject });
      this.child.send({ ...call, id });
    });
  }

  run(user: string, name: string, prompt: readonly number[], max: number): Promise<RunResult> {
    return this.call({ op: "run", id: this.#calls, user, name, prompt, max }) as Promise<RunResult>;
  }

  async kill(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, "exit");
    this.child.kill("SIGKILL");
    await ended;
  }
}
