/** An engine in its own process, taking turns with others: the other end of bench/peers/protocol.ts. */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";

export class Peer implements AsyncDisposable {
  readonly name: string;
  readonly works: ReadonlySet<string>;
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** @throws Error if the process ends before it is ready */
  static async start(
    name: string,
    command: readonly string[],
    environment: Readonly<Record<string, string>> = {},
  ): Promise<Peer> {
    const child = spawn(command[0]!, command.slice(1), {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, ...environment },
    });
    const failed = new Promise<never>(
      (_, reject) => void child.once("error", (error) => reject(new Error(`${name}: ${error.message}`))),
    );
    failed.catch(() => {});
    const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    for (;;) {
      const { value, done } = await Promise.race([lines.next(), failed]);
      if (done === true) throw new Error(`${name} ended before it was ready`);
      if (value.startsWith("ready ")) return new Peer(name, new Set(value.split(" ").slice(1)), child, lines);
    }
  }

  private constructor(name: string, works: ReadonlySet<string>, child: ChildProcess, lines: AsyncIterator<string>) {
    this.name = name;
    this.works = works;
    this.#child = child;
    this.#lines = lines;
  }

  /** Seconds for `units` of a work. */
  async run(work: string, units: number): Promise<number> {
    this.#child.stdin!.write(`run ${work} ${units}\n`);
    const { value, done } = await this.#lines.next();
    const seconds = Number(value);
    if (done === true || !(seconds > 0))
      throw new Error(`${this.name}, ${work}: ${done === true ? "the process ended" : value}`);
    return seconds;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => void this.#child.once("exit", resolve));
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.stdin!.end();
    const timer = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await ended;
    clearTimeout(timer);
  }
}
