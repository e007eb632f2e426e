import { randomBytes } from "node:crypto";
import { setMaxListeners } from "node:events";
import { availableParallelism } from "node:os";
import { measureCapacity, type CalibrationTimes } from "./capacity.ts";
import { Churn } from "./churn.ts";
import { ClientLag } from "./client-lag.ts";
import { judge } from "./criteria.ts";
import { Driver } from "./driver.ts";
import { LoadError, Target } from "./http.ts";
import { lumpWarnings } from "./lumps.ts";
import { chooseModel, readServedModel, type GivenModel, type Model, type ServedModel } from "./model.ts";
import { Population, type Credentials } from "./population.ts";
import { Rehearsal, endedEarly } from "./rehearsal.ts";
import { Recorder } from "./recorder.ts";
import { RequestSource } from "./requests.ts";
import { FORMAT, type AtRest, type Capacity, type LoadResult } from "./result.ts";
import { durationOf, override, peakRate, ScenarioError, type Group, type Scenario } from "./scenario.ts";
import { ServerWatch } from "./server-metrics.ts";
import { readAtRest } from "./server-rest.ts";
import { readTrace, type TraceLine } from "./trace.ts";
import { drawCases, Verifier } from "./verify.ts";

export interface LoadOptions {
  readonly scenario: Scenario;
  readonly urls: readonly string[];
  readonly credentials: Credentials;
  readonly model: GivenModel;
  /** Scales the open loops to `peak_of_capacity` times what a closed loop gets from the servers. */
  readonly calibrate?: CalibrationTimes;
  readonly timeoutMs: number;
  readonly staleMs: number;
  /** On abort the load ends early, everything created is removed, and the result covers what was seen. */
  readonly signal: AbortSignal;
  readonly onPhase: (phase: string) => void;
  /** Called during long work: done, total, and a text. */
  readonly onProgress: (done: number, total: number, text: string) => void;
}

/**
 * Sets up, loads, cleans up, judges. Throws ScenarioError and LoadError; whatever was created on the server is removed
 * in any case.
 */
export async function runLoad(options: LoadOptions): Promise<LoadResult> {
  const { scenario, credentials, urls } = options;
  if (scenario.needs_users === true && credentials.adminKey === null)
    throw new ScenarioError(`the scenario ${scenario.name} needs several users: give the admin key`);
  if (options.calibrate !== undefined) checkCalibration(scenario);
  const traces: Traces = new Map(
    scenario.groups.map((group) => [
      group.name,
      group.requests.trace === undefined ? null : readTrace(group.requests.trace, group.arrivals.process === "trace"),
    ]),
  );
  // Every running request listens to it.
  setMaxListeners(0, options.signal);
  const targets = urls.map((url) => new Target(url));
  try {
    for (const target of targets) await expectReady(target);
    const served = await readServedModel(targets[0]!, credentials.adminKey ?? credentials.userKey);
    const model = chooseModel(options.model, served);
    const population = new Population(scenario, targets[0]!, credentials, model, randomBytes(4).toString("hex"));
    const run = new Run(options, targets, population, traces, model, served);
    try {
      return await run.go();
    } finally {
      await run.tidyUp();
    }
  } finally {
    for (const target of targets) target.closeConnections();
  }
}

/** Throws ScenarioError. */
function checkCalibration({ groups, peak_of_capacity }: Scenario): void {
  if (groups.every(({ arrivals }) => peakRate(arrivals) === 0))
    throw new ScenarioError("--calibrate: the scenario has no open loop");
  if (peak_of_capacity === undefined)
    throw new ScenarioError("--calibrate: the scenario has no peak_of_capacity; give --peak-of-capacity");
}

async function expectReady(target: Target): Promise<void> {
  const { status, text } = await target.call("GET", "/health/ready", null, undefined, 10_000);
  if (status !== 200) throw new LoadError(`${target.url} is not ready: ${status} ${text.slice(0, 200)}`);
}

/** If the server does not report how many sequences it runs concurrently. */
const DEFAULT_SLOTS = 32;

/** Traces by group. */
type Traces = ReadonlyMap<string, readonly TraceLine[] | null>;

class Run {
  readonly #options: LoadOptions;
  #scenario: Scenario;
  #capacity: Capacity | null = null;
  readonly #model: Model;
  readonly #served: ServedModel | null;
  readonly #targets: readonly Target[];
  readonly #population: Population;
  readonly #traces: Traces;
  readonly #notes: string[] = [];
  #churn: Churn | null = null;

  constructor(
    options: LoadOptions,
    targets: readonly Target[],
    population: Population,
    traces: Traces,
    model: Model,
    served: ServedModel | null,
  ) {
    this.#traces = traces;
    this.#model = model;
    this.#served = served;
    this.#options = options;
    this.#scenario = options.scenario;
    this.#targets = targets;
    this.#population = population;
  }

  async go(): Promise<LoadResult> {
    const { onPhase, onProgress, timeoutMs, staleMs, signal } = this.#options;
    const [population, targets] = [this.#population, this.#targets];
    const traces = this.#traces;
    const registered = await this.#register();
    const changing = this.#scenario.churn?.prefixes ?? 0;
    const verifier = new Verifier(
      drawCases(this.#scenario, population.prefixes, changing, this.#model.vocabulary),
      staleMs,
    );
    const rehearsal = new Rehearsal({ population, verifier, targets, timeoutMs, staleMs, signal });
    onPhase("running cases alone");
    const digests = await rehearsal.learn(changing);
    if (this.#options.calibrate !== undefined) await this.#calibrate(verifier, this.#options.calibrate);
    const scenario = this.#scenario;

    const seconds = Math.max(
      durationOf(scenario),
      ...[...traces].map(([name, lines]) => (this.#isTimed(name) ? (lines?.at(-1)?.at_s ?? 0) : 0)),
    );
    const before = await this.#atRest();
    const watches = targets.map((target) => new ServerWatch(target, this.#key));
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
      () =>
        onProgress(Math.min(seconds, (performance.now() - startedAt) / 1000), seconds, liveText(recorder, verifier)),
      250,
    );
    try {
      await Promise.all([
        this.#churn.run(),
        ...this.#drivers(recorder, verifier, traces, startedAt).map((driver) => driver.run()),
      ]);
    } finally {
      clearInterval(ticker);
    }
    const took = (performance.now() - startedAt) / 1000;
    const lags = lag.stop();
    const watched = await Promise.all(watches.map((watch) => watch.stop()));
    const after = await this.#atRest();
    const servers = watched.map((server, index) => ({
      ...server,
      at_rest: { before: before[index]!, after: after[index]! },
    }));
    if (!signal.aborted) {
      onPhase("running cases alone again");
      await rehearsal.repeat();
    }

    const all = recorder.all.counts();
    const result = {
      format: FORMAT,
      scenario,
      urls: targets.map(({ url }) => url),
      started_at,
      seconds: took,
      notes: signal.aborted ? [...this.#notes, "Interrupted."] : this.#notes,
      warnings: lumpWarnings(recorder.lumps.result(), lags.at(99)),
      client: {
        node: process.version,
        cpus: availableParallelism(),
        lag_p50: lags.at(50),
        lag_p99: lags.at(99),
        lag_max: lags.at(100),
        send_delay_p99: recorder.sendDelay.at(99),
        most_in_flight: recorder.mostInFlight,
      },
      model: this.#served,
      capacity: this.#capacity,
      registered,
      totals: {
        ...all,
        requests_per_s: all.ok / took,
        tokens_per_s: all.tokens / took,
        goodput_per_s: all.within_slo / took,
      },
      ...recorder.all.latencies(),
      refused: recorder.refused.quantiles(),
      recovery_s: recorder.recoveryS(),
      stream_lumps: recorder.lumps.result(),
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

  get #key(): string | null {
    return this.#options.credentials.adminKey ?? this.#options.credentials.userKey;
  }

  /** Only if it is judged: a server with other clients never becomes idle. */
  async #atRest(): Promise<(AtRest | null)[]> {
    if (this.#scenario.pass.left_over === undefined) return this.#targets.map(() => null);
    return Promise.all(this.#targets.map((target) => readAtRest(target, this.#key)));
  }

  async #register(): Promise<LoadResult["registered"]> {
    const { onPhase, onProgress, signal } = this.#options;
    const population = this.#population;
    onPhase("registering users and prefixes");
    await population.createUsers();
    if (!population.separateUsers)
      this.#notes.push("No admin key: all requests came from one user, and no users were removed.");
    if (this.#scenario.prefixes.poisoned && population.kind === "hard")
      this.#notes.push("The model's shape is unknown (give --shape or --model-config): no poisoned prefixes.");
    const startedAt = performance.now();
    await population.registerPrefixes((done, total) => onProgress(done, total, "prefixes registered"), signal);
    const prefixes = population.prefixes.length + population.poisoned.length;
    return { prefixes, kind: population.kind, seconds: (performance.now() - startedAt) / 1000 };
  }

  /** Measures the capacity and scales the scenario's rates to it. */
  async #calibrate(verifier: Verifier, times: CalibrationTimes): Promise<void> {
    const { onPhase, onProgress, timeoutMs, signal } = this.#options;
    onPhase("measuring the capacity");
    const capacity = await measureCapacity({
      scenario: this.#scenario,
      targets: this.#targets,
      users: this.#population.users,
      sources: new Map(this.#scenario.groups.map((group) => [group.name, this.#source(group, verifier)])),
      verifier,
      times,
      slots: this.#served?.limits.max_batch ?? DEFAULT_SLOTS,
      timeoutMs,
      signal,
      onProgress,
    });
    if (signal.aborted) throw endedEarly();
    if (capacity.requests_per_s === 0)
      throw new LoadError("the capacity could not be measured: no request was answered");
    const rate = capacity.requests_per_s * (this.#scenario.peak_of_capacity ?? 1);
    onPhase(`${capacity.requests_per_s.toFixed(1)} requests per second; the load's peak is ${rate.toFixed(1)}`);
    this.#capacity = capacity;
    this.#scenario = override(this.#scenario, { rate });
    const { max_queue = 0 } = this.#served?.limits ?? {};
    const wait = max_queue / capacity.requests_per_s;
    if (wait * 1000 > this.#scenario.slo.ttft_ms)
      this.#notes.push(
        `A full queue (--max-queue ${max_queue}) takes ${wait.toFixed(1)} s to work off, longer than the SLO's TTFT of ${this.#scenario.slo.ttft_ms} ms.`,
      );
  }

  #source(group: Group, verifier: Verifier): RequestSource {
    const { prefixes, poisoned } = this.#population;
    const pools = { prefixes, poisoned, cases: verifier.cases, vocabulary: this.#model.vocabulary };
    return new RequestSource(this.#scenario, group, pools, this.#traces.get(group.name) ?? null);
  }

  #isTimed(name: string): boolean {
    return this.#scenario.groups.some((group) => group.name === name && group.arrivals.process === "trace");
  }

  #drivers(recorder: Recorder, verifier: Verifier, traces: Traces, startedAt: number): Driver[] {
    const { timeoutMs, staleMs, signal } = this.#options;
    const { users } = this.#population;
    const parts = {
      targets: this.#targets,
      recorder,
      verifier,
      timeoutMs,
      staleMs,
      seed: this.#scenario.seed ?? 1,
      startedAt,
      signal,
    };
    return this.#scenario.groups.map((group) => {
      const own = users.filter((user) => user.group === group.name);
      return new Driver(parts, group, own, this.#source(group, verifier), traces.get(group.name) ?? null);
    });
  }

  async tidyUp(): Promise<void> {
    this.#options.onPhase("removing users and prefixes");
    const left = await this.#population.remove(this.#churn?.extra ?? [], (done, total) =>
      this.#options.onProgress(done, total, "prefixes removed"),
    );
    if (left.length > 0)
      this.#options.onPhase(
        `not removed: ${left.slice(0, 10).join(", ")}${left.length > 10 ? ` and ${left.length - 10} more` : ""}`,
      );
  }
}

function liveText(recorder: Recorder, verifier: Verifier): string {
  const { requests, errors, tokens } = recorder.all;
  const failed = Object.values(errors).reduce((sum, count) => sum + count, 0);
  const { compared, wrong } = verifier.summary();
  return `${requests} answered, ${recorder.inFlight} running, ${failed} failed, ${tokens} tokens, TTFT p99 ${recorder.all.ttft.at(99).toFixed(0)} ms, ${compared} compared, ${wrong} wrong`;
}
