/** tools/paper/worker.py, in its own process: a JSON object a line each way. */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import type { ChildOptions } from "./prefixes.ts";

const SCRIPT = new URL("../../tools/paper/worker.py", import.meta.url).pathname;

export class PythonWorker implements Disposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** `python`: one with tools/paper/requirements.txt. */
  constructor(python: string, { threads, signal }: ChildOptions) {
    this.#child = spawn(python, [SCRIPT], {
      stdio: ["pipe", "pipe", "ignore"],
      env: { ...process.env, THREADS: String(threads) },
      signal,
    });
    // Without a process, or after its end, the next answer does not come, which says so.
    this.#child.on("error", () => {});
    this.#child.stdin!.on("error", () => {});
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** @throws Error what went wrong there */
  async ask<T>(request: Readonly<Record<string, unknown>>): Promise<T> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error("tools/paper/worker.py ended: does it start by hand?");
    const answer = JSON.parse(value) as T & { readonly error?: string };
    if (answer.error !== undefined) throw new Error(answer.error);
    return answer;
  }

  [Symbol.dispose](): void {
    this.#child.kill();
  }
}
