import { createReadStream } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { userRemoved } from "../prefixes/tombstones.ts";
import { dayOf, numberedId } from "../training/jobs/ids.ts";
import {
  jobEnded,
  jobSealed,
  noSuchFile,
  tooManyBytes,
  tooManyFiles,
  tooManyJobs,
  tooManyTokens,
  unlessFull,
} from "../training/jobs/limits.ts";
import { STATE } from "../training/jobs/protocol.ts";
import {
  CLAIM_MS,
  type Claim,
  type IncomingFile,
  type JobEnd,
  type JobFolder,
  type JobProgress,
  type Page,
  type RemovedTraining,
  type TrainingQuota,
  type TrainingStore,
  type WaitingJob,
} from "../training/jobs/store.ts";
import type { JobCheckpoint, JobEvent, TrainingFile, TrainingJob } from "../training/jobs/types.ts";
import type { WorkFolders } from "../training/jobs/work-folders.ts";
import { uploadError } from "./chunks.ts";
import { accessRedis, guarded, type RedisAccess, type RedisConnection, type RedisUse } from "./connection.ts";
import { blobText, lostFile, parseBlob, TrainingBlobs, type ArrivingBlob, type Blob } from "./training-blobs.ts";
import { RedisTrainingKeys } from "./training-keys.ts";
import { parseJob, TrainingQueue, type StoredJob } from "./training-queue.ts";
import * as scripts from "./training-scripts.ts";

export type RedisTrainingOptions = RedisAccess & {
  /** Prefix of all keys. Default `prefixd`. */
  readonly namespace?: string;
  /** Where jobs that run here are worked on. */
  readonly work: WorkFolders;
  /** Default CLAIM_MS. */
  readonly claimMs?: number;
  /** Monotonic, in milliseconds. */
  readonly clock?: () => number;
  /** Milliseconds until what arrives expires, unless more of it comes. Default 10 minutes. */
  readonly uploadTtlMs?: number;
  /** Milliseconds that users without jobs stay listed. Default 60,000. */
  readonly graceMs?: number;
  /** Bytes per Redis value. Default 512 KiB. */
  readonly chunkBytes?: number;
};

/** Days before the present one whose tokens are remembered, for replicas whose calendars differ. */
const DAYS = 2;
const DAY_MS = 86_400_000;
/** Bytes of a state read at a time. */
const READ_BYTES = 1 << 18;

/** Training shared by replicas: any of them may take a job. Resolves and throws as `openRedis`. */
export async function openRedisTrainingStore(options: RedisTrainingOptions): Promise<TrainingStore> {
  return new RedisTrainingStore(await accessRedis(options), options);
}

class RedisTrainingStore implements TrainingStore {
  readonly #connection: RedisConnection;
  readonly #release: () => void;
  readonly #keys: RedisTrainingKeys;
  readonly #work: WorkFolders;
  readonly #blobs: TrainingBlobs;
  readonly #queue: TrainingQueue;

  constructor({ redis, release }: RedisUse, options: RedisTrainingOptions) {
    const { namespace = "prefixd", claimMs = CLAIM_MS, clock = () => performance.now() } = options;
    const { uploadTtlMs: ttlMs = 600_000, graceMs = 60_000, chunkBytes = 512 * 1024 } = options;
    [this.#connection, this.#release, this.#work] = [redis, release, options.work];
    this.#keys = new RedisTrainingKeys(namespace);
    this.#blobs = new TrainingBlobs(redis.bulk, this.#keys, { chunkBytes, ttlMs });
    this.#queue = new TrainingQueue(redis, this.#keys, { claimMs, clock, graceMs });
  }

  receive(user: string): Promise<IncomingFile> {
    return this.#blobs.begin(user);
  }

  putFile(file: TrainingFile, incoming: IncomingFile, quota: TrainingQuota): Promise<void> {
    return guarded(async () => {
      const { user } = file;
      const blob = await (incoming as ArrivingBlob).finished();
      const keys = [
        this.#keys.files(user),
        this.#keys.bytes(user),
        this.#keys.arriving(user),
        this.#keys.removed(user),
        this.#keys.blob(user, blob.id),
      ];
      const record = `${file.id} ${blobText(blob)} ${JSON.stringify(file)}`;
      const args = [record, blob.id, blob.chunks, blob.bytes, quota.bytes];
      const put = await this.#connection.run(scripts.PUT_FILE, keys, args);
      if (put === -4) throw tooManyFiles();
      if (put === -5) throw tooManyBytes(quota, file);
      if (put !== 1) throw uploadError(put);
    });
  }

  async getFile(user: string, id: string): Promise<TrainingFile | null> {
    return (await this.#file(user, id))?.file ?? null;
  }

  async listFiles(user: string, page: Page): Promise<TrainingFile[]> {
    return (await this.#page(this.#keys.files(user), page)).map((record) => parseFile(record).file);
  }

  deleteFile(user: string, id: string): Promise<boolean> {
    return guarded(async () => {
      const keys = [this.#keys.files(user), this.#keys.bytes(user)];
      return (await this.#connection.run(scripts.DELETE_FILE, keys, [...recordRange(id), this.#keys.base(user)])) === 1;
    });
  }

  async contentOf({ user, id }: TrainingFile): Promise<Readable> {
    const blob = (await this.#file(user, id))?.blob;
    if (blob === undefined) throw noSuchFile();
    return this.#blobs.open(user, blob);
  }

  storedBytes(user: string): Promise<number> {
    return guarded(async () => Number((await this.#connection.client.get(this.#keys.bytes(user))) ?? 0));
  }

  createJob(job: TrainingJob, quota: TrainingQuota, now: number): Promise<void> {
    return guarded(async () => {
      const { user, id } = job;
      await this.#queue.list(user);
      const keys = [
        this.#keys.jobs(user),
        this.#keys.open(user),
        this.#keys.tokens(user),
        this.#keys.removed(user),
        this.#keys.job(user, id),
      ];
      const args = [id, JSON.stringify(job), quota.jobs, quota.tokensPerDay, dayOf(now), this.#keys.base(user)];
      const created = await this.#connection.run(scripts.CREATE_JOB, keys, args);
      if (created === -4) throw tooManyJobs(quota);
      if (created === -5) throw tooManyTokens(quota);
      if (created !== 1) throw userRemoved();
    });
  }

  getJob(user: string, id: string): Promise<TrainingJob | null> {
    return guarded(async () => {
      const job = (await this.#job(user, id))?.job ?? null;
      // A failover may have undone that its user was listed.
      if (job?.status === "queued")
        await this.#connection.client.zadd(this.#keys.users, "NX", job.createdAt, user).catch(() => undefined);
      return job;
    });
  }

  listJobs(user: string, page: Page): Promise<TrainingJob[]> {
    return guarded(async () => {
      const ids = await this.#page(this.#keys.jobs(user), page, "");
      const jobs = await Promise.all(ids.map((id) => this.#job(user, id)));
      return jobs.flatMap((found) => found?.job ?? []);
    });
  }

  waiting({ tokensPerDay }: TrainingQuota, now: number, holder: string): Promise<WaitingJob[]> {
    return guarded(async () => {
      const waiting: WaitingJob[] = [];
      for (const { dayTokens, jobs } of await this.#queue.read(dayOf(now))) {
        const oldest = jobs.find((job) => !this.#queue.isHeld(job, holder));
        if (oldest === undefined || dayTokens >= tokensPerDay) continue;
        waiting.push({ job: oldest.job, running: jobs.filter((job) => this.#queue.isHeld(job, holder)).length });
      }
      return waiting;
    });
  }

  claim({ user, id, holder }: Claim): Promise<TrainingJob | null> {
    return guarded(async () => {
      const keys = [this.#keys.job(user, id), this.#keys.open(user)];
      const args = [id, holder, this.#queue.lapsedBeat(user, id)];
      return parseJob((await this.#connection.run(scripts.CLAIM, keys, args)) as string[])?.job ?? null;
    });
  }

  progress(claim: Claim, progress: JobProgress, now: number): Promise<{ kept: boolean; dayTokens: number }> {
    return guarded(async () => {
      const { user, id, holder } = claim;
      const { status = "", step = "", steps = "", tokens = "", spent = 0, triggers } = progress;
      const keys = [this.#keys.job(user, id), this.#keys.tokens(user)];
      const days = [dayOf(now), dayOf(now - DAYS * DAY_MS)];
      const found = triggers === undefined ? "" : JSON.stringify(triggers);
      const args = [holder, ...days, spent, status, step, steps, tokens, found];
      const [kept, dayTokens] = (await this.#connection.run(scripts.PROGRESS, keys, args)) as [number, number];
      return { kept: kept === 1, dayTokens };
    });
  }

  release({ user, id, holder }: Claim): Promise<void> {
    return guarded(
      async () => void (await this.#connection.run(scripts.RELEASE, [this.#keys.job(user, id)], [holder])),
    );
  }

  seal({ user, id, holder }: Claim): Promise<boolean> {
    return guarded(async () => (await this.#connection.run(scripts.SEAL, [this.#keys.job(user, id)], [holder])) === 1);
  }

  end({ user, id, holder }: Claim, { status, error }: JobEnd, now: number): Promise<boolean> {
    return guarded(async () => {
      const keys = [this.#keys.job(user, id), this.#keys.open(user)];
      const args = [id, holder, status, JSON.stringify(error), now, this.#keys.base(user)];
      return (await this.#connection.run(scripts.END, keys, args)) === 1;
    });
  }

  cancel(user: string, id: string, now: number): Promise<TrainingJob | null> {
    return guarded(async () => {
      const keys = [this.#keys.job(user, id), this.#keys.open(user)];
      const cancelled = await this.#connection.run(scripts.CANCEL, keys, [id, now, this.#keys.base(user)]);
      if (cancelled === -2) throw jobSealed();
      const job = (await this.#job(user, id))?.job ?? null;
      if (cancelled === -1 && job !== null) throw jobEnded(job);
      return job;
    });
  }

  async folderOf(user: string, id: string): Promise<JobFolder> {
    const path = await this.#work.make(user, id);
    const state = (await guarded(() => this.#job(user, id)))?.state ?? null;
    if (state === null) return { path, isStateLost: false };
    return { path, isStateLost: !(await this.#blobs.copy(user, parseBlob(state), join(path, STATE))) };
  }

  async dataIn(folder: string, { user, id }: TrainingFile): Promise<string> {
    const blob = (await this.#file(user, id))?.blob;
    if (blob === undefined) throw noSuchFile();
    const path = join(folder, id);
    if (!(await this.#blobs.copy(user, blob, path))) throw lostFile();
    return path;
  }

  async keepState({ user, id, holder }: Claim, folder: string): Promise<boolean> {
    const arriving = await this.#blobs.begin(user);
    try {
      // The process may replace the file meanwhile, but not change it.
      for await (const bytes of createReadStream(join(folder, STATE), { highWaterMark: READ_BYTES }))
        await arriving.write(bytes as Buffer);
      const blob = await arriving.finished();
      const keys = [
        this.#keys.job(user, id),
        this.#keys.arriving(user),
        this.#keys.removed(user),
        this.#keys.blob(user, blob.id),
      ];
      const args = [holder, blobText(blob), blob.id, blob.chunks, this.#keys.base(user)];
      const kept = await guarded(() => this.#connection.run(scripts.KEEP_STATE, keys, args));
      if (kept !== 1 && kept !== 0) throw uploadError(kept);
      if (kept === 0) await arriving.discard();
      return kept === 1;
    } catch (error) {
      await arriving.discard();
      throw error;
    }
  }

  leaveFolder(user: string, id: string): Promise<void> {
    return this.#work.erase(user, id);
  }

  counts(): Promise<{ queued: number; running: number }> {
    return guarded(async () => {
      const jobs = (await this.#queue.read(dayOf(Date.now()))).flatMap((queue) => queue.jobs);
      const running = jobs.filter((job) => this.#queue.isHeld(job, null)).length;
      return { queued: jobs.length - running, running };
    });
  }

  async addEvent(user: string, job: string, event: Omit<JobEvent, "id">): Promise<void> {
    const keys = [this.#keys.job(user, job), this.#keys.events(user, job)];
    const id = numberedId("ftevent", job, 0).replace(/\d{6}$/, "");
    await guarded(() => this.#connection.run(scripts.ADD_EVENT, keys, [id, JSON.stringify(event)])).catch(unlessFull);
  }

  async listEvents(user: string, job: string, page: Page): Promise<JobEvent[]> {
    return (await this.#page(this.#keys.events(user, job), page)).map(parseRecord<JobEvent>);
  }

  addCheckpoint(user: string, job: string, checkpoint: Omit<JobCheckpoint, "id">): Promise<void> {
    return guarded(async () => {
      const keys = [this.#keys.job(user, job), this.#keys.checkpoints(user, job)];
      const id = numberedId("ftckpt", job, checkpoint.step);
      await this.#connection.run(scripts.ADD_CHECKPOINT, keys, [
        `${id} ${JSON.stringify(checkpoint)}`,
        ...recordRange(id),
      ]);
    });
  }

  async listCheckpoints(user: string, job: string, page: Page): Promise<JobCheckpoint[]> {
    return (await this.#page(this.#keys.checkpoints(user, job), page)).map(parseRecord<JobCheckpoint>);
  }

  deleteCheckpoint(user: string, job: string, id: string): Promise<void> {
    const key = this.#keys.checkpoints(user, job);
    return guarded(async () => void (await this.#connection.client.zremrangebylex(key, ...recordRange(id))));
  }

  deleteUser(user: string): Promise<RemovedTraining> {
    return guarded(async () => {
      const { bulk } = this.#connection;
      const names = ["files", "bytes", "jobs", "open", "tokens", "arriving"] as const;
      const keys = names.map((name) => this.#keys[name](user));
      const [files, jobs, bytes] = (await bulk.run(scripts.DELETE_TRAINING, keys, [this.#keys.base(user)])) as [
        number,
        number,
        number,
      ];
      await bulk.client.zrem(this.#keys.users, user);
      // One that has been created anew has a job already.
      if ((await bulk.client.exists(this.#keys.open(user))) === 1) await this.#queue.list(user);
      await bulk.replicated();
      return { files, jobs, bytes };
    });
  }

  ping(): Promise<void> {
    return guarded(async () => void (await this.#connection.client.exists(this.#keys.users)));
  }

  async close(): Promise<void> {
    this.#release();
  }

  async #job(user: string, id: string): Promise<StoredJob | null> {
    const fields = await this.#connection.client.hgetall(this.#keys.job(user, id));
    return parseJob(Object.entries(fields).flat());
  }

  #file(user: string, id: string): Promise<{ file: TrainingFile; blob: Blob } | null> {
    return guarded(async () => {
      const [record] = await this.#connection.client.zrangebylex(this.#keys.files(user), ...recordRange(id));
      return record === undefined ? null : parseFile(record);
    });
  }

  /** Records `ID ...` in order of their ids; `separator` empty: records that are ids. */
  #page(key: string, { after, limit, order }: Page, separator = " "): Promise<string[]> {
    const { client } = this.#connection;
    return guarded(() =>
      order === "asc"
        ? client.zrangebylex(
            key,
            after === undefined ? "-" : `(${after}${separator === "" ? "" : " ~"}`,
            "+",
            "LIMIT",
            0,
            limit,
          )
        : client.zrevrangebylex(key, after === undefined ? "+" : `(${after}${separator}`, "-", "LIMIT", 0, limit),
    );
  }
}

/** Of the one record that begins with the id and a space, in ZRANGEBYLEX's format. */
const recordRange = (id: string): [min: string, max: string] => [`[${id} `, `[${id} ~`];

function parseFile(record: string): { file: TrainingFile; blob: Blob } {
  const [, blob = "", file = ""] = /^\S+ (\S+ \d+ \d+ \S+) (.*)$/s.exec(record) ?? [];
  return { file: JSON.parse(file) as TrainingFile, blob: parseBlob(blob) };
}

function parseRecord<T extends { readonly id: string }>(record: string): T {
  const space = record.indexOf(" ");
  return { id: record.slice(0, space), ...(JSON.parse(record.slice(space + 1)) as Omit<T, "id">) } as T;
}
