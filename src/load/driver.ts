import { setTimeout as sleep } from "node:timers/promises";
import { clientsAt, poissonArrivals, totalSeconds } from "./arrivals.ts";
import { generate, type CallRecord } from "./client.ts";
import type { Target } from "./http.ts";
import type { LoadUser } from "./population.ts";
import { fork } from "./random.ts";
import type { Recorder } from "./recorder.ts";
import type { Draft, RequestSource } from "./requests.ts";
import type { Group } from "./scenario.ts";
import type { TraceLine } from "./trace.ts";
import type { Verifier } from "./verify.ts";

/** How often a closed loop adjusts its number of clients. */
const LOOK_MS = 20;
/** Bounds of a closed-loop client's pause after an error; within them it follows Retry-After. */
const BACK_OFF_MS = { least: 100, most: 5_000 };

export interface DriverParts {
  readonly targets: readonly Target[];
  readonly recorder: Recorder;
  readonly verifier: Verifier;
  readonly timeoutMs: number;
  readonly staleMs: number;
  readonly seed: number;
  /** By `performance.now()`. */
  readonly startedAt: number;
  /** Ends the load early: nothing new is sent, running requests are cut. */
  readonly signal: AbortSignal;
}

/** Sends one group's requests at their times, and passes every answer to the verifier and the recorder. */
export class Driver {
  readonly #parts: DriverParts;
  readonly #group: Group;
  readonly #users: readonly LoadUser[];
  readonly #source: RequestSource;
  readonly #trace: readonly TraceLine[] | null;
  readonly #running = new Set<Promise<unknown>>();
  #sent = 0;

  constructor(
    parts: DriverParts,
    group: Group,
    users: readonly LoadUser[],
    source: RequestSource,
    trace: readonly TraceLine[] | null,
  ) {
    this.#parts = parts;
    this.#group = group;
    this.#users = users;
    this.#source = source;
    this.#trace = trace;
  }

  /** Resolves when the last request has been answered. */
  async run(): Promise<void> {
    const { arrivals } = this.#group;
    if (arrivals.process === "closed") await this.#closed(arrivals);
    else
      await this.#open(
        arrivals.process === "poisson"
          ? poissonArrivals(arrivals.steps, fork(this.#parts.seed, `arrivals of ${this.#group.name}`))
          : (this.#trace ?? []).map((line) => line.at_s ?? 0),
      );
    await Promise.all(this.#running);
  }

  /** Sends requests at their times regardless of earlier ones; latency counts from the intended time. */
  async #open(times: Iterable<number>): Promise<void> {
    for (const time of times) {
      const intendedAt = this.#parts.startedAt + time * 1000;
      const wait = intendedAt - performance.now();
      if (wait > 0) await this.#pause(wait);
      if (this.#parts.signal.aborted) return;
      const sent = this.#send(intendedAt, this.#users[this.#sent % this.#users.length]!);
      this.#running.add(sent);
      void sent.then(() => this.#running.delete(sent));
    }
  }

  async #closed(arrivals: Extract<Group["arrivals"], { process: "closed" }>): Promise<void> {
    const seconds = totalSeconds(arrivals.steps);
    const most = Math.max(...arrivals.steps.flatMap(({ clients, to = clients }) => [clients, to]));
    const elapsed = (): number => (performance.now() - this.#parts.startedAt) / 1000;
    const client = async (index: number): Promise<void> => {
      while (elapsed() < seconds && !this.#parts.signal.aborted) {
        if (clientsAt(arrivals, elapsed()) <= index) {
          await this.#pause(LOOK_MS);
          continue;
        }
        const { code, retryAfterS } = await this.#send(performance.now(), this.#users[index % this.#users.length]!);
        if (code !== "ok" && code !== "disconnected")
          await this.#pause(Math.min(BACK_OFF_MS.most, Math.max(BACK_OFF_MS.least, (retryAfterS ?? 0) * 1000)));
        else if (arrivals.think_s !== undefined) await this.#pause(arrivals.think_s * 1000);
      }
    };
    await Promise.all(Array.from({ length: most }, (_, index) => client(index)));
  }

  async #pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#parts.signal }).catch(() => undefined);
  }

  async #send(intendedAt: number, user: LoadUser): Promise<CallRecord> {
    const { recorder, verifier, targets, timeoutMs, signal } = this.#parts;
    const draft = this.#source.next();
    const target = targets[this.#sent++ % targets.length]!;
    recorder.offered(intendedAt);
    const record = await generate({
      ...draft,
      target,
      key: user.key,
      intendedAt,
      timeoutMs,
      signal,
      onTokens: (count, at) => recorder.tokens(user, count, at),
    });
    const asked = { ...draft, url: target.url };
    const right = verifier.check(asked, record);
    const judged = right ? this.#judge(draft, record) : { ...record, code: "wrong_answer" };
    recorder.ended(judged, {
      user,
      provoked: this.#isProvoked(draft, record, right),
      slow: draft.bytesPerSecond !== undefined,
    });
    return record;
  }

  /** Success with an overflowing prefix counts as an error. */
  #judge({ prefix }: Draft, record: CallRecord): CallRecord {
    return prefix?.poisoned === true && record.code === "ok" ? { ...record, code: "poison_unnoticed" } : record;
  }

  #isProvoked(draft: Draft, record: CallRecord, right: boolean): boolean {
    if (!right) return false;
    const { code } = record;
    if (code === "disconnected") return draft.disconnectAfter !== undefined || this.#parts.signal.aborted;
    if (code === "model_failed" || code === "prefix_overflows") return draft.prefix?.poisoned === true;
    if (code === "cut") return draft.bytesPerSecond !== undefined;
    if (code !== "removed" && code !== "prefix_not_found") return false;
    return (
      draft.prefix !== null &&
      draft.prefix.history.between(record.sentAt - this.#parts.staleMs, record.endedAt).includes(null)
    );
  }
}
