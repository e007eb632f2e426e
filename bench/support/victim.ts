/**
 * A process that streams, as a user whom others may hold up, and notes when each event came. In the attackers' process,
 * their own work would look like the server's.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { quantile } from "./report.ts";

interface Settings {
  readonly url: string;
  readonly key: string;
  /** Of each stream; another one follows. */
  readonly tokens: number;
  /** At a time; default: 1. */
  readonly streams?: number;
}

/** What came between two moments. */
export interface Flow {
  readonly tokensPerSecond: number;
  /** The 99th percentile of the times between two tokens of a stream, in milliseconds. */
  readonly p99Ms: number;
  /** The longest time without a token, from one stream to the next included, in milliseconds. */
  readonly longestGapMs: number;
  readonly failures: number;
}

interface Noted {
  /** Milliseconds between two tokens of a stream. */
  readonly gaps: number[];
  readonly longest: number;
  readonly failures: number;
}

const CHILD = "victim";

export interface Victim {
  /** Measures while `work` runs, and at least for `leastMs`. */
  during<T>(work: () => Promise<T>, leastMs: number): Promise<{ flow: Flow; result: T }>;
  stop(): Promise<void>;
}

export async function startVictim(settings: Settings): Promise<Victim> {
  const child = fork(fileURLToPath(import.meta.url), [CHILD, JSON.stringify(settings)]);
  const ask = async (): Promise<Noted> => {
    child.send("since the last time");
    const [noted] = (await once(child, "message")) as [Noted];
    return noted;
  };
  // Until functions are compiled.
  await sleep(3000);
  return {
    async during(work, leastMs) {
      await ask();
      const started = performance.now();
      const result = await work();
      const rest = leastMs - (performance.now() - started);
      if (rest > 0) await sleep(rest);
      const { gaps, longest, failures } = await ask();
      const tokensPerSecond = (1000 * gaps.length) / (performance.now() - started);
      return { flow: { tokensPerSecond, p99Ms: quantile(gaps, 0.99), longestGapMs: longest, failures }, result };
    },
    async stop() {
      const exited = once(child, "exit");
      child.kill();
      await exited;
    },
  };
}

if (process.argv[2] === CHILD && process.send !== undefined) {
  const { url, key, tokens, streams = 1 } = JSON.parse(process.argv[3]!) as Settings;
  const last = Array.from({ length: streams }, () => performance.now());
  let [gaps, longest, failures]: [number[], number, number] = [[], 0, 0];
  process.on("disconnect", () => process.exit());
  process.on("message", () => {
    const now = performance.now();
    longest = Math.max(longest, ...last.map((time) => now - time));
    process.send!({ gaps, longest, failures } satisfies Noted);
    [gaps, longest, failures] = [[], 0, 0];
    last.fill(now);
  });
  const body = JSON.stringify({ prompt: "once upon a time", max_new_tokens: tokens, ignore_eos: true, stream: true });
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const one = async (stream: number): Promise<void> => {
    const response = await fetch(`${url}/generate`, { method: "POST", headers, body });
    if (!response.ok) throw new Error(await response.text());
    let first = true;
    for await (const chunk of response.body!) {
      const now = performance.now();
      const gap = now - last[stream]!;
      last[stream] = now;
      longest = Math.max(longest, gap);
      // Events end with an empty line.
      const events =
        Buffer.from(chunk as Uint8Array)
          .toString()
          .split("\n\n").length - 1;
      for (let event = 0; event < events; event++) gaps.push(first || event > 0 ? 0 : gap);
      first = false;
    }
  };
  for (const stream of last.keys()) {
    void (async () => {
      for (;;) {
        await one(stream).catch(() => failures++);
        // The next stream's times differ from its neighbours'.
        await sleep(5);
      }
    })();
  }
}
