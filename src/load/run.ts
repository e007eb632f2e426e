import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Churn } from "./churn.ts";
import { ClientLag } from "./client-lag.ts";
import { judge } from "./criteria.ts";
import { DigestHistory } from "./digest-history.ts";
import { Driver } from "./driver.ts";
import { LoadError, Target } from "./http.ts";
import { accept, Population, type Credentials, type Model } from "./population.ts";
import { Recorder } from "./recorder.ts";
import { RequestSource } from "./requests.ts";
import { FORMAT, type LoadResult } from "./result.ts";
import { durationOf, ScenarioError, type Scenario } from "./scenario.ts";
import { ServerWatch } from "./server-metrics.ts";
import { readTrace, type TraceLine } from "./trace.ts";
import { drawCases, Verifier, type Case } from "./verify.ts";

export interface LoadOptions {
  readonly scenario: Scenario;
  readonly urls: readonly string[];
  readonly credentials: Credentials;
  readonly model: Model;
  readonly timeoutMs: number;
  readonly staleMs: number;
  /** Aborted: the load ends early, what was made is removed, and the result is of what was seen. */
  readonly signal: AbortSignal;
  readonly onPhase: (phase: string) => void;
  /** While something takes long: how much is done, of how much, and in words. */
  readonly onProgress: (done: number, total: number, text: string) => void;
}

/** Prepares, loads, tidies up, judges. Throws ScenarioError and LoadError; what was made on the server is removed in any case. */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const { scenario, credentials, urls } = options;
  if (scenario.needs_users === true && credentials.adminKey === null)
    throw new ScenarioError(`the scenario ${scenario.name} needs several users: give the admin key`);
  const traces: Traces = new Map(
    scenario.groups.map((group) => [
      group.name,
      group.requests.trace === undefined ? null : readTrace(group.requests.trace, group.arrivals.process === "trace"),
    ]),
  );
  // Every request under way listens to it.
  setMaxListeners(0, options.signal);
  const targets = urls.map((url) => new Target(url));
  try {
    for (const target of targets) await expectReady(target);
    const population = await Population.plan(scenario, targets[0]!, credentials, options.model, randomBytes(4).toString("hex"));
    const run = new Run(options, targets, population, traces);
    try {
      return await run.go();
    } finally {
      await run.tidyUp();
    }
  } finally {
    for (const target of targets) target.close();
  }
}

async function expectReady(target: Target): Promise<void> {
  const { status, text } = await target.call("GET", "/health/ready", null, undefined, 10_000);
  if (status !== 200) throw new LoadError(`${target.url} is not ready: ${status} ${text.slice(0, 200)}`);
}

/** By group. */
type Traces = ReadonlyMap<string, readonly TraceLine[] | null>;

class Run {
  readonly #options: LoadOptions;
  readonly #scenario: Scenario;
  readonly #targets: readonly Target[];
  readonly #population: Population;
  readonly #traces: Traces;
  readonly #notes: string[] = [];
  #churn: Churn | null = null;

  constructor(options: LoadOptions, targets: readonly Target[], population: Population, traces: Traces) {
    this.#traces = traces;
    this.#options = options;
    this.#scenario = options.scenario;
    this.#targets = targets;
    this.#population = population;
  }

  async go(): Promise<LoadResult> {
    const { onPhase, onProgress, timeoutMs, staleMs, model, signal } = this.#options;
    const [scenario, population, targets] = [this.#scenario, this.#population, this.#targets];
    const traces = this.#traces;
    onPhase("users and prefixes are registered");
    await population.createUsers();
    if (!population.separateUsers) this.#notes.push("No admin key: all requests came from one user, and no users were removed.");
    if (scenario.prefixes.poisoned && population.kind === "hard")
      this.#notes.push("The model's shape is not known (--shape, --model-config): no poisoned prefixes.");
    const registering = performance.now();
    await population.registerPrefixes((done, total) => onProgress(done, total, "prefixes registered"), signal);
    const registered = {
      prefixes: population.prefixes.length + population.poisoned.length,
      kind: population.kind,
      seconds: (performance.now() - registering) / 1000,
    };

    const changing = scenario.churn?.prefixes ?? 0;
    const verifier = new Verifier(drawCases(scenario, population.prefixes, changing, model.vocabulary), staleMs);
    onPhase("cases are run alone");
    const digests = await this.#learn(verifier, changing);

    const seconds = Math.max(
      durationOf(scenario),
      ...[...traces].map(([name, lines]) => (this.#isTimed(name) ? (lines?.at(-1)?.at_s ?? 0) : 0)),
    );
    const watches = targets.map(
      (target) => new ServerWatch(target, this.#options.credentials.adminKey ?? this.#options.credentials.userKey),
    );
    await Promise.all(watches.map((watch) => watch.start(Math.max(500, (seconds * 1000) / 240))));
    onPhase(`load for ${seconds.toFixed(0)} s`);
    const startedAt = performance.now();
    const started_at = new Date().toISOString();
    verifier.start(startedAt);
    const recorder = new Recorder(scenario, population.users, seconds, startedAt);
    const lag = new ClientLag();
    this.#churn = new Churn({
      scenario,
      population,
      verifier,
      target: targets[0]!,
      digests,
      seconds,
      staleMs,
      timeoutMs,
      startedAt,
      signal,
    });
    const ticker = setInterval(
      () => onProgress(Math.min(seconds, (performance.now() - startedAt) / 1000), seconds, liveText(recorder, verifier)),
      250,
    );
    try {
      await Promise.all([this.#churn.run(), ...this.#drivers(recorder, verifier, traces, startedAt).map((driver) => driver.run())]);
    } finally {
      clearInterval(ticker);
    }
    const took = (performance.now() - startedAt) / 1000;
    const lags = lag.stop();
    const servers = await Promise.all(watches.map((watch) => watch.stop()));
    if (!signal.aborted) {
      onPhase("cases are run alone again");
      await this.#again(verifier);
    }

    const all = recorder.all.counts();
    const result = {
      format: FORMAT,
      scenario,
      urls: targets.map(({ url }) => url),
      started_at,
      seconds: took,
      notes: signal.aborted ? [...this.#notes, "Ended early by hand."] : this.#notes,
      client: {
        node: process.version,
        cpus: availableParallelism(),
        lag_p50: lags.at(50),
        lag_p99: lags.at(99),
        lag_max: lags.at(100),
        send_delay_p99: recorder.sendDelay.at(99),
        most_in_flight: recorder.mostInFlight,
      },
      registered,
      totals: { ...all, requests_per_s: all.ok / took, tokens_per_s: all.tokens / took, goodput_per_s: all.within_slo / took },
      ...recorder.all.latencies(),
      groups: recorder.groups(),
      users: recorder.users(),
      series: recorder.series(),
      servers,
      churn: this.#churn.counts,
      verification: verifier.summary(),
    } as const;
    const criteria = judge(scenario.pass, result);
    return { ...result, criteria, passed: criteria.every(({ passed }) => passed) };
  }

  #isTimed(name: string): boolean {
    return this.#scenario.groups.some((group) => group.name === name && group.arrivals.process === "trace");
  }

  #drivers(recorder: Recorder, verifier: Verifier, traces: Traces, startedAt: number): Driver[] {
    const { model, timeoutMs, staleMs, signal } = this.#options;
    const { prefixes, poisoned, users } = this.#population;
    const parts = { targets: this.#targets, recorder, verifier, timeoutMs, staleMs, seed: this.#scenario.seed ?? 1, startedAt, signal };
    const pools = { prefixes, poisoned, cases: verifier.cases, vocabulary: model.vocabulary };
    return this.#scenario.groups.map((group) => {
      const trace = traces.get(group.name) ?? null;
      return new Driver(
        parts,
        group,
        users.filter((user) => user.group === group.name),
        new RequestSource(this.#scenario, group, pools, trace),
        trace,
      );
    });
  }

  /** Runs the cases alone, on both versions of the prefixes that will change; answers those versions' digests. */
  async #learn(verifier: Verifier, changing: number): Promise<[string, string][]> {
    const population = this.#population;
    await this.#alone(verifier, verifier.cases);
    const prefixes = population.prefixes.slice(0, changing);
    const digests: [string, string][] = [];
    for (const prefix of prefixes) {
      const [first] = prefix.history.between(0, Infinity);
      const second = await this.#put(prefix, 1);
      digests.push([first!, second]);
    }
    await sleep(changing > 0 ? this.#options.staleMs : 0);
    await this.#alone(
      verifier,
      verifier.cases.filter((one) => one.prefix !== null && prefixes.includes(one.prefix)),
    );
    for (const [index, prefix] of prefixes.entries()) {
      const again = await this.#put(prefix, 0);
      if (again !== digests[index]![0])
        verifier.wrong(
          { what: "the same files have another digest than before", expected: digests[index]![0], got: again },
          this.#targets[0]!.url,
          { PUT: prefix.id },
        );
    }
    await sleep(changing > 0 ? this.#options.staleMs : 0);
    return digests;
  }

  async #put(prefix: Population["prefixes"][number], version: number): Promise<string> {
    const { etag } = accept(await this.#population.put(prefix, version), "replacing a prefix");
    const digest = (etag ?? "").replaceAll('"', "");
    prefix.history = new DigestHistory(digest);
    return digest;
  }

  #alone(verifier: Verifier, cases: readonly Case[]): Promise<void> {
    return verifier.learn(cases, this.#targets[0]!, this.#population.users[0]?.key ?? null, this.#options.timeoutMs);
  }

  /** After the load each case must answer as it did before, on every server. */
  async #again(verifier: Verifier): Promise<void> {
    await sleep(this.#options.staleMs);
    for (const target of this.#targets) await verifier.repeat(target, this.#population.users[0]?.key ?? null, this.#options.timeoutMs);
  }

  async tidyUp(): Promise<void> {
    this.#options.onPhase("users and prefixes are removed");
    const left = await this.#population.remove(this.#churn?.extra ?? [], (done, total) =>
      this.#options.onProgress(done, total, "prefixes removed"),
    );
    if (left.length > 0)
      this.#options.onPhase(`not removed: ${left.slice(0, 10).join(", ")}${left.length > 10 ? ` and ${left.length - 10} more` : ""}`);
  }
}

function liveText(recorder: Recorder, verifier: Verifier): string {
  const { requests, errors, tokens } = recorder.all;
  const failed = Object.values(errors).reduce((sum, count) => sum + count, 0);
  const { compared, wrong } = verifier.summary();
  return `${requests} answered, ${recorder.inFlight} running, ${failed} failed, ${tokens} tokens, TTFT p99 ${recorder.all.ttft.at(99).toFixed(0)} ms, ${compared} compared, ${wrong} wrong`;
}
