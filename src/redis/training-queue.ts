import type { TrainingJob } from "../training/jobs/types.ts";
import type { RedisConnection } from "./connection.ts";
import type { RedisTrainingKeys } from "./training-keys.ts";
import { OPEN_JOBS, STRIKE_OFF_USER } from "./training-scripts.ts";

/** A job as it is stored. */
export interface StoredJob {
  readonly job: TrainingJob;
  /** Empty: nobody. */
  readonly holder: string;
  /** Changes with each renewal of the claim. */
  readonly beat: string;
  /** Its kept state, as a blob's text; null: none. */
  readonly state: string | null;
}

/** A user with jobs that have not ended, the oldest first. */
export interface UserQueue {
  readonly user: string;
  readonly dayTokens: number;
  readonly jobs: readonly StoredJob[];
}

export interface QueueOptions {
  readonly claimMs: number;
  /** Monotonic, in milliseconds. */
  readonly clock: () => number;
  /** Milliseconds that a user stays listed without jobs, far longer than the commands that create one take. */
  readonly graceMs: number;
}

/** What has not changed, and since when this process knows. */
interface Seen {
  readonly value: string;
  readonly since: number;
}

/** Users read at a time. */
const USERS_AT_A_TIME = 100;
/** Clocks run at different speeds. */
const MARGIN = 1.2;

/** Alternating fields and values, as Redis answers; null: no job. */
export function parseJob(fields: readonly string[]): StoredJob | null {
  const of = new Map<string, string>();
  for (let i = 0; i < fields.length; i += 2) of.set(fields[i]!, fields[i + 1]!);
  const record = of.get("record");
  if (record === undefined) return null;
  const numberOf = (field: string): number | null => (of.has(field) ? Number(of.get(field)) : null);
  const triggers = of.get("triggers");
  const job: TrainingJob = {
    ...(JSON.parse(record) as TrainingJob),
    status: of.get("status") as TrainingJob["status"],
    step: numberOf("step") ?? 0,
    steps: numberOf("steps"),
    tokens: numberOf("tokens") ?? 0,
    attempts: numberOf("attempts") ?? 0,
    finishedAt: numberOf("finishedAt"),
    error: JSON.parse(of.get("error") ?? "null") as TrainingJob["error"],
    ...(triggers === undefined ? {} : { triggers: JSON.parse(triggers) as NonNullable<TrainingJob["triggers"]> }),
  };
  return { job, holder: of.get("holder") ?? "", beat: of.get("beat") ?? "", state: of.get("state") ?? null };
}

/**
 * The jobs of all users, and which of them are held. As with leases between replicas no clock but this process's own
 * counts: a claim has lapsed when its beat has stood still for longer than the holder may wait, since this process saw it.
 *
 * The list of users and their jobs are in different slots of a Cluster, so no script can write both: a user is listed
 * before a job of theirs is created, and struck off when none has been found for a while.
 */
export class TrainingQueue {
  readonly #connection: RedisConnection;
  readonly #keys: RedisTrainingKeys;
  readonly #options: QueueOptions;
  /** `user/id` of held jobs -> the beat that was seen last. */
  #beats = new Map<string, Seen>();
  /** Users without jobs -> the time of their last one. */
  #idle = new Map<string, Seen>();

  constructor(connection: RedisConnection, keys: RedisTrainingKeys, options: QueueOptions) {
    [this.#connection, this.#keys, this.#options] = [connection, keys, options];
  }

  /** Lists a user: before a job is created, so that after a crash no job is unlisted. */
  async list(user: string): Promise<void> {
    await this.#connection.client.zadd(this.#keys.users, Date.now(), user);
  }

  /** @param day of the tokens */
  async read(day: string): Promise<UserQueue[]> {
    const listed = await this.#connection.client.zrange(this.#keys.users, "0", "-1", "WITHSCORES");
    const queues: UserQueue[] = [];
    const [beats, idle] = [new Map<string, Seen>(), new Map<string, Seen>()];
    for (let at = 0; at < listed.length; at += 2 * USERS_AT_A_TIME) {
      const some = listed.slice(at, at + 2 * USERS_AT_A_TIME);
      const users = some.filter((_, i) => i % 2 === 0);
      const answers = await Promise.all(users.map((user) => this.#openJobs(user, day)));
      const since = this.#options.clock();
      for (const [i, queue] of answers.entries()) {
        const { user } = queue;
        if (queue.jobs.length > 0) queues.push(queue);
        else idle.set(user, seen(this.#idle.get(user), some[2 * i + 1]!, since));
        for (const { job, holder, beat } of queue.jobs) {
          const key = `${user}/${job.id}`;
          if (holder !== "") beats.set(key, seen(this.#beats.get(key), beat, since));
        }
      }
    }
    [this.#beats, this.#idle] = [beats, idle];
    await this.#strikeOff();
    return queues;
  }

  /** Whether another than `holder` holds the job, as of the last `read`. */
  isHeld({ job, holder }: StoredJob, by: string | null): boolean {
    return holder !== "" && holder !== by && this.lapsedBeat(job.user, job.id) === "";
  }

  /** The beat of a claim that has lapsed; empty: it has not, or nothing is known of it. */
  lapsedBeat(user: string, id: string): string {
    const last = this.#beats.get(`${user}/${id}`);
    return last !== undefined && this.#options.clock() - last.since > MARGIN * this.#options.claimMs ? last.value : "";
  }

  async #openJobs(user: string, day: string): Promise<UserQueue> {
    const keys = [this.#keys.open(user), this.#keys.tokens(user)];
    const [dayTokens, ...jobs] = (await this.#connection.run(OPEN_JOBS, keys, [day, this.#keys.base(user)])) as [
      number,
      ...string[][],
    ];
    return { user, dayTokens, jobs: jobs.flatMap(([, ...fields]) => parseJob(fields) ?? []) };
  }

  async #strikeOff(): Promise<void> {
    const now = this.#options.clock();
    const long = [...this.#idle].filter(([, { since }]) => now - since > this.#options.graceMs);
    for (const [user, { value }] of long.slice(0, USERS_AT_A_TIME))
      await this.#connection.run(STRIKE_OFF_USER, [this.#keys.users], [user, value]);
  }
}

/** As it was before, unless the value has changed. */
const seen = (before: Seen | undefined, value: string, since: number): Seen =>
  before?.value === value ? before : { value, since };
