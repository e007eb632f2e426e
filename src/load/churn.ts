import { setTimeout as sleep } from "node:timers/promises";
import { poissonArrivals } from "./arrivals.ts";
import { generate, PLAIN, type CallRecord, type GenerateBody } from "./client.ts";
import type { Answer, Target } from "./http.ts";
import type { LoadPrefix, Population } from "./population.ts";
import { below, fork, type Random } from "./random.ts";
import type { Scenario } from "./scenario.ts";
import type { Verifier } from "./verify.ts";

/** Outcome of a change; `busy`: every candidate prefix was already being changed. */
type Outcome = "done" | "refused" | "busy";

/** Time for the end of a removed user's streams to reach us after the receipt, through buffers on the way. */
const GRACE_MS = 1_000;
const VICTIM_STREAMS = 2;

export interface ChurnParts {
  readonly scenario: Scenario;
  readonly population: Population;
  readonly verifier: Verifier;
  readonly target: Target;
  /** Digests of versions 0 and 1 of the prefixes that change. */
  readonly digests: readonly (readonly [string, string])[];
  readonly seconds: number;
  readonly staleMs: number;
  readonly timeoutMs: number;
  readonly startedAt: number;
  readonly signal: AbortSignal;
}

interface Changing {
  readonly prefix: LoadPrefix;
  readonly digests: readonly [string, string];
  version: 0 | 1;
  busy: boolean;
}

/** Changes prefixes and users during the load, one change at a time per prefix. */
export class Churn {
  /** Number of changes by name and outcome. */
  readonly counts: Record<string, number> = {};
  /** Prefixes created in addition to the population's, for cleaning up. */
  readonly extra: LoadPrefix[] = [];
  readonly #parts: ChurnParts;
  readonly #changing: Changing[];
  readonly #running = new Set<Promise<void>>();

  constructor(parts: ChurnParts) {
    this.#parts = parts;
    this.#changing = parts.digests.map((digests, index) => ({
      prefix: parts.population.prefixes[index]!,
      digests,
      version: 0,
      busy: false,
    }));
  }

  /** Resolves when the last change has been answered. */
  async run(): Promise<void> {
    const {
      replace_per_s = 0,
      recreate_per_s = 0,
      register_per_s = 0,
      remove_user_per_s = 0,
    } = this.#parts.scenario.churn ?? {};
    await Promise.all([
      this.#at(replace_per_s, "replaced", (random) => this.#withIdle(random, (one) => this.#replace(one))),
      this.#at(recreate_per_s, "recreated", (random) => this.#withIdle(random, (one) => this.#recreate(one, random))),
      this.#at(register_per_s, "registered", (_random, index) => this.#registerAndDelete(index)),
      this.#at(this.#parts.population.separateUsers ? remove_user_per_s : 0, "users removed", (_random, index) =>
        this.#removeUser(index),
      ),
    ]);
    await Promise.all(this.#running);
  }

  async #at(rate: number, what: string, change: (random: Random, index: number) => Promise<Outcome>): Promise<void> {
    const { scenario, seconds, startedAt, signal } = this.#parts;
    const random = fork(scenario.seed ?? 1, what);
    let index = 0;
    for (const time of poissonArrivals([{ for_s: seconds, rate }], random)) {
      await sleep(Math.max(0, startedAt + time * 1000 - performance.now()), undefined, { signal }).catch(
        () => undefined,
      );
      if (signal.aborted) return;
      const done = change(random, index++).then(
        (outcome) => this.#count(outcome === "done" ? what : `${what}: ${outcome}`),
        () => this.#count(`${what}: no answer`),
      );
      this.#running.add(done);
      void done.then(() => this.#running.delete(done));
    }
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  /** Changes a prefix that is not being changed; skips the change if there is none. */
  async #withIdle(random: Random, change: (one: Changing) => Promise<boolean>): Promise<Outcome> {
    const idle = this.#changing.filter(({ busy }) => !busy);
    if (idle.length === 0) return "busy";
    const one = idle[below(random, idle.length)]!;
    one.busy = true;
    try {
      return (await change(one)) ? "done" : "refused";
    } finally {
      one.prefix.history.forget(performance.now() - this.#parts.timeoutMs - this.#parts.staleMs);
      one.busy = false;
    }
  }

  async #replace(one: Changing): Promise<boolean> {
    const version = one.version === 0 ? 1 : 0;
    const put = await this.#change(one.prefix, one.digests[version], async () =>
      this.#parts.population.put(one.prefix, version),
    );
    if (put) one.version = version;
    return put;
  }

  /** Deletes a prefix, waits a moment and registers the same content again. */
  async #recreate(one: Changing, random: Random): Promise<boolean> {
    const { population } = this.#parts;
    if (!(await this.#change(one.prefix, null, () => population.delete(one.prefix)))) return false;
    await sleep(random() * 200);
    return this.#change(one.prefix, one.digests[one.version], async () => {
      const answer = await population.put(one.prefix, one.version);
      if (answer.status < 300) await population.share(one.prefix);
      return answer;
    });
  }

  /**
   * Records a change in the prefix's history; true if it was made. If the connection breaks, both versions stay
   * possible.
   */
  async #change(prefix: LoadPrefix, version: string | null, ask: () => Promise<Answer>): Promise<boolean> {
    const change = prefix.history.begin(version);
    const answer = await ask();
    if (answer.status >= 500) return false;
    if (answer.status >= 300) {
      change.refused();
      return false;
    }
    change.done();
    if (version !== null && answer.etag !== `"${version}"`) {
      this.#parts.verifier.wrong(
        { what: "the same files now have a different digest", expected: version, got: answer.etag },
        this.#parts.target.url,
        { PUT: prefix.id },
      );
    }
    return true;
  }

  /** A new prefix must work at once, and a deleted one must not. */
  async #registerAndDelete(index: number): Promise<Outcome> {
    const { population, verifier, target, staleMs } = this.#parts;
    const prefix = population.describe(`extra${index}`, 1);
    this.extra.push(prefix);
    const put = await population.put(prefix, 0);
    if (put.status !== 201) return "refused";
    const body: GenerateBody = { prompt: [1, 2, 3], max_new_tokens: 2, ...PLAIN, prefix_id: prefix.name };
    const used = await this.#ask(body, population.ownerKey);
    const digest = put.etag?.replaceAll('"', "");
    if (used.code === "prefix_not_found" || (used.code === "ok" && used.prefix?.digest !== digest)) {
      verifier.wrong(
        {
          what: "a newly registered prefix was not served",
          expected: digest,
          got: used.prefix ?? used.code,
        },
        target.url,
        body,
      );
    }
    if ((await population.delete(prefix)).status !== 204) return "refused";
    await sleep(staleMs);
    const after = await this.#ask(body, population.ownerKey);
    if (after.code === "ok")
      verifier.wrong(
        { what: "a deleted prefix was served", expected: "prefix_not_found", got: after.prefix },
        target.url,
        body,
      );
    return "done";
  }

  /** Removes a user with two running streams: the streams must end and the key be refused. */
  async #removeUser(index: number): Promise<Outcome> {
    const { population, verifier, target, staleMs } = this.#parts;
    const id = population.userId(`leaver${index}`);
    const key = await population.createUser(id, {});
    const prefix = population.describe("own", 2);
    const put = await target.call("PUT", `/prefixes/${prefix.name}`, key, prefix.content(index));
    if (put.status !== 201) return "refused";
    const body: GenerateBody = {
      prompt: [1, 2, 3],
      max_new_tokens: 100,
      ...PLAIN,
      stream: true,
      prefix_id: prefix.name,
    };
    let begun = (): void => undefined;
    const tokens = new Promise<void>((resolve) => (begun = resolve));
    const streams = Array.from({ length: VICTIM_STREAMS }, () => this.#ask(body, key, begun));
    await Promise.race([tokens, ...streams]);
    const receipt = await population.removeUser(id);
    if (receipt.status !== 200) return "refused";
    const removedAt = performance.now();
    const ended = await Promise.race([Promise.all(streams), sleep(GRACE_MS + staleMs)]);
    if (!ended)
      verifier.wrong(
        {
          what: "a removed user's stream went on",
          expected: "removed",
          got: `still open ${GRACE_MS + staleMs} ms after the receipt`,
        },
        target.url,
        body,
      );
    await sleep(Math.max(0, removedAt + staleMs - performance.now()));
    const after = await this.#ask(body, key);
    if (after.code === "ok")
      verifier.wrong(
        { what: "a removed user was served", expected: "unauthorized", got: after.answer },
        target.url,
        body,
      );
    return "done";
  }

  #ask(body: GenerateBody, key: string | null, onTokens: () => void = () => undefined): Promise<CallRecord> {
    const { target, timeoutMs } = this.#parts;
    return generate({ target, key, body, intendedAt: performance.now(), timeoutMs, onTokens });
  }
}
