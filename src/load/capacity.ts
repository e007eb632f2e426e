import { setTimeout as sleep } from "node:timers/promises";
import { generate } from "./client.ts";
import type { Target } from "./http.ts";
import type { LoadUser } from "./population.ts";
import { fork } from "./random.ts";
import type { Draft } from "./requests.ts";
import type { Capacity } from "./result.ts";
import { peakRate, type Scenario } from "./scenario.ts";
import type { Verifier } from "./verify.ts";

export interface CalibrationTimes {
  /** Time for the batch to fill and the caches to warm up. */
  readonly warmUpS: number;
  readonly measuredS: number;
}

export const CALIBRATION: CalibrationTimes = { warmUpS: 5, measuredS: 20 };

/** Clients per slot of the server, so that one is waiting when another finishes. */
const CLIENTS_PER_SLOT = 1.25;
const REFUSED_MS = 100;

export interface CapacityParts {
  readonly scenario: Scenario;
  readonly targets: readonly Target[];
  readonly users: readonly LoadUser[];
  /** Request sources by group. */
  readonly sources: ReadonlyMap<string, { next(): Draft }>;
  readonly verifier: Verifier;
  readonly times: CalibrationTimes;
  /** Sequences that one server runs concurrently. */
  readonly slots: number;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  readonly onProgress: (done: number, total: number, text: string) => void;
}

/**
 * Measures how many requests per second a closed loop gets from the servers, with the open loops' requests in
 * proportion, except those that fail or stall on purpose. Answers are verified as during the load.
 */
export async function measureCapacity(parts: CapacityParts): Promise<Capacity> {
  const { scenario, targets, verifier, times, timeoutMs, signal } = parts;
  const groups = scenario.groups.filter((group) => peakRate(group.arrivals) > 0);
  const users = groups.map(({ name }) => parts.users.filter((user) => user.group === name));
  const rates = groups.map(({ arrivals }) => peakRate(arrivals));
  const random = fork(scenario.seed ?? 1, "capacity");
  const draw = (): number => {
    let point = random() * rates.reduce((sum, rate) => sum + rate, 0);
    return Math.max(
      0,
      rates.findIndex((rate) => (point -= rate) < 0),
    );
  };
  const startedAt = performance.now();
  const seconds = times.warmUpS + times.measuredS;
  const [from, until] = [startedAt + times.warmUpS * 1000, startedAt + seconds * 1000];
  let [asked, answered, tokens] = [0, 0, 0];
  const client = async (): Promise<void> => {
    while (performance.now() < until && !signal.aborted) {
      const group = draw();
      const { prefix, case: one, body } = parts.sources.get(groups[group]!.name)!.next();
      if (prefix?.poisoned === true) continue;
      const target = targets[asked++ % targets.length]!;
      const user = users[group]![asked % users[group]!.length]!;
      const record = await generate({ target, key: user.key, body, intendedAt: performance.now(), timeoutMs, signal });
      verifier.check({ prefix, case: one, body, url: target.url }, record);
      if (record.code !== "ok") await sleep(REFUSED_MS);
      else if (record.endedAt >= from && record.endedAt < until) {
        answered++;
        tokens += record.tokens;
      }
    }
  };
  const clients = Math.ceil(parts.slots * targets.length * CLIENTS_PER_SLOT);
  const ticker = setInterval(
    () => parts.onProgress((performance.now() - startedAt) / 1000, seconds, `${answered} answered`),
    250,
  );
  try {
    await Promise.all(Array.from({ length: clients }, client));
  } finally {
    clearInterval(ticker);
  }
  return { requests_per_s: answered / times.measuredS, tokens_per_s: tokens / times.measuredS, clients };
}
