/**
 * The real server in its own process, which reports how long its event loop's turns took. Ended by its parent's
 * `close`, or with the parent.
 */
import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { parseConfig } from "../../src/config.ts";
import { startServer } from "../../src/main.ts";
import { TurnMeter, turnBudget } from "./event-loop.ts";
import { bareNode, SOURCES } from "./program.ts";
import { withoutSettings } from "./server.ts";

interface Reading {
  readonly url: string;
  /** Milliseconds of the longest turn since the last reading, and what 50 ms amount to there. */
  readonly longest: number;
  readonly budget: number;
}

export class MeteredServer {
  readonly url: string;
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess, url: string) {
    this.#child = child;
    this.url = url;
  }

  /** With these flags, on a free port. */
  static async start(flags: readonly string[], env: Record<string, string> = {}): Promise<MeteredServer> {
    const [execPath, execArgv] = bareNode(...SOURCES);
    const child = fork(
      new URL(import.meta.url).pathname,
      ["serve", "--port", "0", "--log-level", "silent", "--spin-time", "0", ...flags],
      { execPath, execArgv: [...execArgv], env: { ...withoutSettings(), ...env } },
    );
    const [{ url }] = (await Promise.race([
      once(child, "message"),
      once(child, "exit").then(([code]) => Promise.reject(new Error(`the server ended with ${code}`))),
    ])) as [Reading];
    return new MeteredServer(child, url);
  }

  /** The longest turn since the last call, as a share of the budget; 1 is 50 ms. */
  async longestTurn(): Promise<number> {
    this.#child.send("read");
    const [{ longest, budget }] = (await once(this.#child, "message")) as [Reading];
    return longest / budget;
  }

  async close(): Promise<void> {
    const ended = once(this.#child, "exit");
    this.#child.disconnect();
    await ended;
  }
}

/** The server's end. */
async function serve(args: readonly string[]): Promise<void> {
  const config = parseConfig(args, process.env);
  if (config === "help") throw new Error("not for people");
  const server = await startServer(config);
  const meter = new TurnMeter();
  let budget = turnBudget();
  meter.take();
  const tell = (longest: number): boolean => process.send!({ url: server.url, longest, budget } satisfies Reading);
  process.on("message", () => {
    const longest = meter.take();
    // It takes as long as most requests, and only a turn that would be too long needs to know how fast the machine is now.
    if (longest > budget) budget = turnBudget();
    tell(longest);
    // The measurement itself does not count.
    meter.take();
  });
  process.on("disconnect", () => {
    meter.stop();
    void server.stop({ delaySeconds: 0 });
  });
  tell(0);
}

if (process.argv[2] === "serve" && process.send !== undefined) await serve(process.argv.slice(3));
