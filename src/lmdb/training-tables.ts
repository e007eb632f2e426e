import { existsSync, mkdirSync } from "node:fs";
import { dayOf, numberedId } from "../training/jobs/ids.ts";
import {
  jobEnded,
  jobSealed,
  MOST_EVENTS,
  MOST_FILES,
  MOST_JOBS,
  tooManyBytes,
  tooManyFiles,
  tooManyJobs,
  tooManyTokens,
} from "../training/jobs/limits.ts";
import {
  CLAIM_MS,
  type Claim,
  type JobEnd,
  type JobProgress,
  type Page,
  type RemovedTraining,
  type TrainingQuota,
  type WaitingJob,
} from "../training/jobs/store.ts";
import {
  isEnded,
  type JobCheckpoint,
  type JobEvent,
  type TrainingFile,
  type TrainingJob,
} from "../training/jobs/types.ts";
import { eraseFile } from "./erase.ts";
import { JsonTable } from "./json-table.ts";
import { RewrittenLmdb } from "./rewritten.ts";
import { folderKey, TrainingFolders } from "./training-folders.ts";

export interface LmdbTrainingOptions {
  /** The store's folder; training is in its sub-folder `training`. */
  readonly dir: string;
  /** Default CLAIM_MS. */
  readonly claimMs?: number;
}

/** A job that has not ended, and who holds it. */
interface OpenJob {
  readonly holder: string | null;
  /** When the claim lapses, by this process's monotonic clock: opening the folder lets go of all claims. */
  readonly until: number;
  /** Tokens of this claim that the day has been charged with. */
  readonly spent?: number;
  /** It is being registered. */
  readonly sealed?: boolean;
}

interface Environment {
  /** user/id -> */
  readonly files: JsonTable<TrainingFile>;
  readonly jobs: JsonTable<TrainingJob>;
  readonly open: JsonTable<OpenJob>;
  /** user/job/id -> */
  readonly events: JsonTable<JobEvent>;
  readonly checkpoints: JsonTable<JobCheckpoint>;
  /** user/day -> tokens */
  readonly tokens: JsonTable<number>;
}

/**
 * Training's records and files. Records are in their own LMDB environment, which is rewritten without a removed user.
 * Every call is synchronous and blocks on the disk, so it runs on a thread.
 */
export class LmdbTrainingTables {
  readonly #folders: TrainingFolders;
  readonly #file: RewrittenLmdb<Environment>;
  readonly #claimMs: number;
  readonly #clock: () => number;

  /** @param clock monotonic, in milliseconds */
  constructor({ dir, claimMs = CLAIM_MS }: LmdbTrainingOptions, clock: () => number = () => performance.now()) {
    [this.#claimMs, this.#clock] = [claimMs, clock];
    this.#folders = new TrainingFolders(dir);
    this.#file = new RewrittenLmdb({
      dir: this.#folders.records,
      maxDbs: 6,
      what: "training store",
      databases: (root) => ({
        files: new JsonTable(root, "files"),
        jobs: new JsonTable(root, "jobs"),
        open: new JsonTable(root, "open"),
        events: new JsonTable(root, "events"),
        checkpoints: new JsonTable(root, "checkpoints"),
        tokens: new JsonTable(root, "tokens"),
      }),
    });
    const { files, open } = this.#file.read();
    const keysOf = (table: JsonTable<unknown>): Set<string> =>
      new Set([...table.keys()].map((key) => folderKey(...(key.split("/") as [string, string]))));
    this.#folders.open({ files: keysOf(files), jobs: keysOf(open) });
    // The folder belongs to this process, so whoever held a job is gone.
    this.#file.write((env) => {
      for (const key of [...env.open.keys()]) letWait(env, key);
    });
  }

  /** Of a new file. */
  incomingPath(user: string): string {
    return this.#folders.incomingFile(user);
  }

  discardIncoming(path: string): void {
    if (existsSync(path)) eraseFile(path);
  }

  putFile(file: TrainingFile, incoming: string, quota: TrainingQuota): void {
    this.#file.write((env) => {
      const held = [...valuesOf(env.files, file.user)];
      if (held.length >= MOST_FILES) throw tooManyFiles();
      if (sumBytes(held) + file.bytes > quota.bytes) throw tooManyBytes(quota, file);
      this.#folders.keepFile(incoming, file.user, file.id);
      env.files.put(`${file.user}/${file.id}`, file);
    });
  }

  getFile(user: string, id: string): TrainingFile | null {
    return this.#file.read().files.get(`${user}/${id}`) ?? null;
  }

  listFiles(user: string, page: Page): TrainingFile[] {
    return pageOf(this.#file.read().files, user, page);
  }

  deleteFile(user: string, id: string): boolean {
    const existed = this.#file.write((env) => env.files.remove(`${user}/${id}`));
    if (existed) this.#folders.eraseFile(user, id);
    return existed;
  }

  storedBytes(user: string): number {
    return sumBytes(valuesOf(this.#file.read().files, user));
  }

  createJob(job: TrainingJob, quota: TrainingQuota, now: number): void {
    this.#file.write((env) => {
      const { user } = job;
      const open = [...env.open.keys(rangeOf(user))].length;
      if (open >= quota.jobs) throw tooManyJobs(quota);
      if ((env.tokens.get(dayKey(user, now)) ?? 0) >= quota.tokensPerDay) throw tooManyTokens(quota);
      const ended = [...valuesOf(env.jobs, user)].filter(isEnded);
      for (const old of ended.slice(0, Math.max(0, ended.length + open + 1 - MOST_JOBS))) forget(env, old);
      env.jobs.put(`${user}/${job.id}`, job);
      env.open.put(`${user}/${job.id}`, { holder: null, until: 0 });
    });
  }

  getJob(user: string, id: string): TrainingJob | null {
    return this.#file.read().jobs.get(`${user}/${id}`) ?? null;
  }

  listJobs(user: string, page: Page): TrainingJob[] {
    return pageOf(this.#file.read().jobs, user, page);
  }

  waiting({ tokensPerDay }: TrainingQuota, now: number, holder: string): WaitingJob[] {
    const env = this.#file.read();
    const oldest = new Map<string, TrainingJob>();
    const running = new Map<string, number>();
    for (const { key, value } of env.open.entries()) {
      const job = env.jobs.get(key);
      if (job === undefined) continue;
      const { user } = job;
      if (this.#isHeld(value) && value.holder !== holder) running.set(user, (running.get(user) ?? 0) + 1);
      else if (!oldest.has(user) && (env.tokens.get(dayKey(user, now)) ?? 0) < tokensPerDay) oldest.set(user, job);
    }
    return [...oldest.values()].map((job) => ({ job, running: running.get(job.user) ?? 0 }));
  }

  claim({ user, id, holder }: Claim): TrainingJob | null {
    return this.#file.write((env) => {
      const key = `${user}/${id}`;
      const [open, job] = [env.open.get(key), env.jobs.get(key)];
      if (open === undefined || job === undefined || (this.#isHeld(open) && open.holder !== holder)) return null;
      env.open.put(key, { ...open, holder, until: this.#clock() + this.#claimMs, spent: 0 });
      const claimed: TrainingJob = { ...job, status: "validating_files", attempts: job.attempts + 1 };
      env.jobs.put(key, claimed);
      return claimed;
    });
  }

  progress(claim: Claim, progress: JobProgress, now: number): { kept: boolean; dayTokens: number } {
    return this.#file.write((env) => {
      const { user, holder } = claim;
      const key = `${user}/${claim.id}`;
      const day = dayKey(user, now);
      const { spent: told = 0, ...change } = progress;
      const before = env.tokens.get(day) ?? 0;
      const [open, job] = [env.open.get(key), env.jobs.get(key)];
      // Without a record the user may be gone, and nothing of theirs may come back.
      if (job === undefined || open?.holder !== holder) return { kept: false, dayTokens: before };
      const { spent = 0 } = open;
      const dayTokens = before + Math.max(0, told - spent);
      if (dayTokens > before) env.tokens.put(day, dayTokens);
      env.open.put(key, { ...open, until: this.#clock() + this.#claimMs, spent: Math.max(spent, told) });
      // A job that is resumed repeats steps; only those beyond the farthest are progress.
      const step = Math.max(job.step, change.step ?? 0);
      const attempts = step > job.step ? 0 : job.attempts;
      if (Object.keys(change).length > 0) env.jobs.put(key, { ...job, ...change, step, attempts });
      return { kept: true, dayTokens };
    });
  }

  release({ user, id, holder }: Claim): void {
    this.#file.write((env) => {
      if (env.open.get(`${user}/${id}`)?.holder === holder) letWait(env, `${user}/${id}`);
    });
  }

  seal({ user, id, holder }: Claim): boolean {
    return this.#file.write((env) => {
      const key = `${user}/${id}`;
      const open = env.open.get(key);
      if (open?.holder !== holder) return false;
      env.open.put(key, { ...open, sealed: true });
      return true;
    });
  }

  end({ user, id, holder }: Claim, end: JobEnd, now: number): boolean {
    return this.#file.write((env) => {
      const key = `${user}/${id}`;
      const job = env.jobs.get(key);
      if (job === undefined || env.open.get(key)?.holder !== holder) return false;
      env.open.remove(key);
      env.jobs.put(key, { ...job, ...end, finishedAt: now });
      return true;
    });
  }

  cancel(user: string, id: string, now: number): TrainingJob | null {
    return this.#file.write((env) => {
      const key = `${user}/${id}`;
      const job = env.jobs.get(key);
      if (job === undefined) return null;
      if (isEnded(job)) throw jobEnded(job);
      if (env.open.get(key)?.sealed === true) throw jobSealed();
      const cancelled: TrainingJob = { ...job, status: "cancelled", finishedAt: now };
      env.open.remove(key);
      env.jobs.put(key, cancelled);
      return cancelled;
    });
  }

  folderOf(user: string, id: string): string {
    const dir = this.#folders.job(user, id);
    mkdirSync(dir, { recursive: true });
    return dir;
  }

  leaveFolder(user: string, id: string): void {
    if (this.#file.read().open.get(`${user}/${id}`) === undefined) this.#folders.eraseJob(user, id);
  }

  counts(): { queued: number; running: number } {
    const held = [...this.#file.read().open.entries()].map(({ value }) => this.#isHeld(value));
    const running = held.filter(Boolean).length;
    return { queued: held.length - running, running };
  }

  addEvent(user: string, job: string, event: Omit<JobEvent, "id">): void {
    this.#file.write((env) => {
      const number = countBelow(env.events, `${user}/${job}`);
      if (env.jobs.get(`${user}/${job}`) === undefined || number >= MOST_EVENTS) return;
      const id = numberedId("ftevent", job, number);
      env.events.put(`${user}/${job}/${id}`, { id, ...event });
    });
  }

  listEvents(user: string, job: string, page: Page): JobEvent[] {
    return pageOf(this.#file.read().events, `${user}/${job}`, page);
  }

  addCheckpoint(user: string, job: string, checkpoint: Omit<JobCheckpoint, "id">): void {
    this.#file.write((env) => {
      if (env.jobs.get(`${user}/${job}`) === undefined) return;
      const id = numberedId("ftckpt", job, checkpoint.step);
      env.checkpoints.put(`${user}/${job}/${id}`, { id, ...checkpoint });
    });
  }

  listCheckpoints(user: string, job: string, page: Page): JobCheckpoint[] {
    return pageOf(this.#file.read().checkpoints, `${user}/${job}`, page);
  }

  deleteCheckpoint(user: string, job: string, id: string): void {
    this.#file.write((env) => env.checkpoints.remove(`${user}/${job}/${id}`));
  }

  deleteUser(user: string): RemovedTraining {
    const before = this.#file.read();
    const files = [...valuesOf(before.files, user)];
    const removed = { files: files.length, jobs: countBelow(before.jobs, user), bytes: sumBytes(files) };
    if (removed.files + removed.jobs + countBelow(before.tokens, user) > 0)
      this.#file.rewrite((old, fresh) => {
        for (const name of Object.keys(old) as (keyof Environment)[]) copyWithout(old[name], fresh[name], user);
      });
    this.#folders.eraseUser(user);
    return removed;
  }

  ping(): void {
    this.#file.read().jobs.get("-");
  }

  close(): Promise<void> {
    return this.#file.close();
  }

  #isHeld({ holder, until }: OpenJob): boolean {
    return holder !== null && until > this.#clock();
  }
}

/** All keys that begin with `above` and a slash: "0" is the character after it. */
const rangeOf = (above: string): { start: string; end: string } => ({ start: `${above}/`, end: `${above}0` });

function* valuesOf<V>(table: JsonTable<V>, above: string): Generator<V> {
  for (const { value } of table.entries(rangeOf(above))) yield value;
}

function countBelow(table: JsonTable<unknown>, above: string): number {
  return [...table.keys(rangeOf(above))].length;
}

function pageOf<V>(table: JsonTable<V>, above: string, { after, limit, order }: Page): V[] {
  const { start, end } = rangeOf(above);
  const last = after === undefined ? undefined : `${above}/${after}`;
  const range =
    order === "asc"
      ? { start: last ?? start, exclusiveStart: last !== undefined, end, limit }
      : { start: last ?? end, exclusiveStart: true, end: start, reverse: true, limit };
  return [...table.entries(range)].map(({ value }) => value);
}

function copyWithout(from: JsonTable<unknown>, to: JsonTable<unknown>, user: string): void {
  for (const { key, value } of from.entries()) if (!key.startsWith(`${user}/`)) to.put(key, value);
}

function letWait(env: Environment, key: string): void {
  const job = env.jobs.get(key);
  env.open.put(key, { ...env.open.get(key), holder: null, until: 0 });
  if (job !== undefined) env.jobs.put(key, { ...job, status: "queued" });
}

function forget(env: Environment, { user, id }: TrainingJob): void {
  env.jobs.remove(`${user}/${id}`);
  for (const table of [env.events, env.checkpoints])
    for (const key of [...table.keys(rangeOf(`${user}/${id}`))]) table.remove(key);
}

const sumBytes = (files: Iterable<TrainingFile>): number =>
  Array.from(files).reduce((sum, { bytes }) => sum + bytes, 0);

const dayKey = (user: string, now: number): string => `${user}/${dayOf(now)}`;
