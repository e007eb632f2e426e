/**
 * A process that streams one request after another, as a user whom others may hold up, and notes when each event came.
 * In the attackers' process, their own work would look like the server's.
 */
import { fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

interface Settings {
  readonly url: string;
  readonly key: string;
  readonly tokens: number;
}

/** What the stream got between two moments. */
export interface Flow {
  readonly tokensPerSecond: number;
  /** The longest time without an event, in milliseconds. */
  readonly longestGapMs: number;
  readonly failures: number;
}

interface Noted {
  /** Unix times in milliseconds. */
  readonly at: number[];
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
      const elapsedMs = performance.now() - started;
      const { at, failures } = await ask();
      const gaps = at.slice(1).map((time, index) => time - at[index]!);
      // Without any event the whole time is the gap.
      const longestGapMs = at.length === 0 ? elapsedMs : Math.max(...gaps, at[0]! - performance.timeOrigin - started);
      return { flow: { tokensPerSecond: (1000 * at.length) / elapsedMs, longestGapMs, failures }, result };
    },
    async stop() {
      const exited = once(child, "exit");
      child.kill();
      await exited;
    },
  };
}

if (process.argv[2] === CHILD && process.send !== undefined) {
  const { url, key, tokens } = JSON.parse(process.argv[3]!) as Settings;
  let at: number[] = [];
  let failures = 0;
  process.on("message", () => {
    process.send!({ at, failures } satisfies Noted);
    [at, failures] = [[], 0];
  });
  const body = JSON.stringify({ prompt: "once upon a time", max_new_tokens: tokens, ignore_eos: true, stream: true });
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  for (;;) {
    try {
      const response = await fetch(`${url}/generate`, { method: "POST", headers, body });
      if (!response.ok) throw new Error(await response.text());
      for await (const chunk of response.body!) {
        const now = performance.timeOrigin + performance.now();
        // Events end with an empty line.
        const events =
          Buffer.from(chunk as Uint8Array)
            .toString()
            .split("\n\n").length - 1;
        for (let i = 0; i < events; i++) at.push(now);
      }
    } catch {
      failures++;
      await sleep(50);
    }
  }
}
