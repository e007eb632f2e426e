import { setTimeout as sleep } from "node:timers/promises";
import { DigestHistory } from "./digest-history.ts";
import { LoadError, type Target } from "./http.ts";
import { accept, type LoadPrefix, type Population } from "./population.ts";
import type { Case, Verifier } from "./verify.ts";

export const endedEarly = (): LoadError => new LoadError("interrupted before the load");

export interface RehearsalParts {
  readonly population: Population;
  readonly verifier: Verifier;
  /** The first one's answers count as correct. */
  readonly targets: readonly Target[];
  readonly timeoutMs: number;
  readonly staleMs: number;
  readonly signal: AbortSignal;
}

/** Runs the cases alone on the idle server: before the load to learn their answers, and again after it. */
export class Rehearsal {
  readonly #parts: RehearsalParts;

  constructor(parts: RehearsalParts) {
    this.#parts = parts;
  }

  /**
   * Learns both versions of the first `changing` prefixes, which will change; returns those versions' digests. Throws
   * LoadError.
   */
  async learn(changing: number): Promise<[string, string][]> {
    const { population, verifier, targets, signal } = this.#parts;
    await this.#alone(verifier.cases);
    const prefixes = population.prefixes.slice(0, changing);
    const digests: [string, string][] = [];
    for (const prefix of prefixes) {
      if (signal.aborted) throw endedEarly();
      const [first] = prefix.history.between(0, Infinity);
      const second = await this.#put(prefix, 1);
      digests.push([first!, second]);
    }
    await this.#settle(changing);
    await this.#alone(verifier.cases.filter((one) => one.prefix !== null && prefixes.includes(one.prefix)));
    for (const [index, prefix] of prefixes.entries()) {
      if (signal.aborted) throw endedEarly();
      const expected = digests[index]![0];
      const got = await this.#put(prefix, 0);
      if (got === expected) continue;
      verifier.wrong({ what: "the same files now have a different digest", expected, got }, targets[0]!.url, {
        PUT: prefix.id,
      });
    }
    await this.#settle(changing);
    return digests;
  }

  /** Repeats each case on every server: the answers must be those learned. */
  async repeat(): Promise<void> {
    const { population, verifier, targets, timeoutMs, staleMs } = this.#parts;
    await sleep(staleMs);
    for (const target of targets) await verifier.repeat(target, population.users[0]?.key ?? null, timeoutMs);
  }

  /** Waits until no replica serves replaced prefixes any more. */
  async #settle(changed: number): Promise<void> {
    await sleep(changed > 0 ? this.#parts.staleMs : 0);
  }

  async #put(prefix: LoadPrefix, version: number): Promise<string> {
    const { etag } = accept(await this.#parts.population.put(prefix, version), "replacing a prefix");
    const digest = (etag ?? "").replaceAll('"', "");
    prefix.history = new DigestHistory(digest);
    return digest;
  }

  #alone(cases: readonly Case[]): Promise<void> {
    const { population, verifier, targets, timeoutMs, signal } = this.#parts;
    return verifier.learn(cases, targets[0]!, population.users[0]?.key ?? null, timeoutMs, signal);
  }
}
