import { open, type FileHandle } from "node:fs/promises";
import { pipeline, Transform, type Readable, type TransformCallback } from "node:stream";
import { PrefixdError } from "../errors.ts";
import { noSuchFile, unlessFull } from "../training/jobs/limits.ts";
import type {
  Claim,
  IncomingFile,
  JobEnd,
  JobFolder,
  JobProgress,
  Page,
  RemovedTraining,
  TrainingQuota,
  TrainingStore,
  WaitingJob,
} from "../training/jobs/store.ts";
import type { JobCheckpoint, JobEvent, TrainingFile, TrainingJob } from "../training/jobs/types.ts";
import { isFull } from "./file.ts";
import { TrainingFolders } from "./training-folders.ts";
import type { LmdbTrainingOptions, LmdbTrainingTables } from "./training-tables.ts";
import { WorkerCalls } from "./worker-calls.ts";

/**
 * Training in the folder of an embedded store, which belongs to this process. Nothing is opened before the first call;
 * opening lets jobs wait again that an earlier process held.
 */
export function createLmdbTrainingStore(options: LmdbTrainingOptions): TrainingStore {
  const worker = new URL("./training-worker", import.meta.url).href;
  return new LmdbTrainingStore(new WorkerCalls(worker, options, "training store"), options);
}

/** Bytes of a file read at a time. */
const READ_BYTES = 1 << 18;

export class LmdbTrainingStore implements TrainingStore {
  readonly #tables: Pick<WorkerCalls<LmdbTrainingTables>, "call" | "close">;
  readonly #folders: TrainingFolders;

  constructor(tables: Pick<WorkerCalls<LmdbTrainingTables>, "call" | "close">, { dir }: LmdbTrainingOptions) {
    this.#tables = tables;
    this.#folders = new TrainingFolders(dir);
  }

  async receive(user: string): Promise<IncomingFile> {
    const path = await this.#tables.call("incomingPath", user);
    return new ReceivedFile(path, await orStoreFull(open(path, "wx")), () =>
      this.#tables.call("discardIncoming", path),
    );
  }

  async putFile(file: TrainingFile, incoming: IncomingFile, quota: TrainingQuota): Promise<void> {
    await this.#tables.call("putFile", file, await (incoming as ReceivedFile).finished(), quota);
  }

  getFile(user: string, id: string): Promise<TrainingFile | null> {
    return this.#tables.call("getFile", user, id);
  }

  listFiles(user: string, page: Page): Promise<TrainingFile[]> {
    return this.#tables.call("listFiles", user, page);
  }

  deleteFile(user: string, id: string): Promise<boolean> {
    return this.#tables.call("deleteFile", user, id);
  }

  async contentOf({ user, id }: TrainingFile): Promise<Readable> {
    let file: FileHandle;
    try {
      file = await open(this.#folders.file(user, id));
    } catch (error) {
      // Deleted in between.
      if (error instanceof Error && "code" in error && error.code === "ENOENT") throw noSuchFile();
      throw error;
    }
    // A file is overwritten once its record is gone: what was read while there is one is its content.
    const check = (done: TransformCallback, bytes?: Buffer): void =>
      void this.getFile(user, id).then((there) => (there === null ? done(noSuchFile()) : done(null, bytes)), done);
    const checked = new Transform({
      transform: (bytes: Buffer, _encoding, done) => check(done, bytes),
      flush: (done) => check(done),
    });
    return pipeline(file.createReadStream({ highWaterMark: READ_BYTES }), checked, () => undefined);
  }

  storedBytes(user: string): Promise<number> {
    return this.#tables.call("storedBytes", user);
  }

  createJob(job: TrainingJob, quota: TrainingQuota, now: number): Promise<void> {
    return this.#tables.call("createJob", job, quota, now);
  }

  getJob(user: string, id: string): Promise<TrainingJob | null> {
    return this.#tables.call("getJob", user, id);
  }

  listJobs(user: string, page: Page): Promise<TrainingJob[]> {
    return this.#tables.call("listJobs", user, page);
  }

  waiting(quota: TrainingQuota, now: number, holder: string): Promise<WaitingJob[]> {
    return this.#tables.call("waiting", quota, now, holder);
  }

  claim(claim: Claim): Promise<TrainingJob | null> {
    return this.#tables.call("claim", claim);
  }

  progress(claim: Claim, progress: JobProgress, now: number): Promise<{ kept: boolean; dayTokens: number }> {
    return this.#tables.call("progress", claim, progress, now);
  }

  release(claim: Claim): Promise<void> {
    return this.#tables.call("release", claim);
  }

  seal(claim: Claim): Promise<boolean> {
    return this.#tables.call("seal", claim);
  }

  end(claim: Claim, end: JobEnd, now: number): Promise<boolean> {
    return this.#tables.call("end", claim, end, now);
  }

  cancel(user: string, id: string, now: number): Promise<TrainingJob | null> {
    return this.#tables.call("cancel", user, id, now);
  }

  async folderOf(user: string, id: string): Promise<JobFolder> {
    return { path: await this.#tables.call("folderOf", user, id), isStateLost: false };
  }

  async dataIn(_folder: string, { user, id }: TrainingFile): Promise<string> {
    return this.#folders.file(user, id);
  }

  /** It is in the folder already, which no other process takes over. */
  async keepState(): Promise<boolean> {
    return true;
  }

  async leaveFolder(user: string, id: string): Promise<void> {
    await this.#tables.call("leaveFolder", user, id).catch(() => undefined);
  }

  counts(): Promise<{ queued: number; running: number }> {
    return this.#tables.call("counts");
  }

  async addEvent(user: string, job: string, event: Omit<JobEvent, "id">): Promise<void> {
    await this.#tables.call("addEvent", user, job, event).catch(unlessFull);
  }

  listEvents(user: string, job: string, page: Page): Promise<JobEvent[]> {
    return this.#tables.call("listEvents", user, job, page);
  }

  addCheckpoint(user: string, job: string, checkpoint: Omit<JobCheckpoint, "id">): Promise<void> {
    return this.#tables.call("addCheckpoint", user, job, checkpoint);
  }

  listCheckpoints(user: string, job: string, page: Page): Promise<JobCheckpoint[]> {
    return this.#tables.call("listCheckpoints", user, job, page);
  }

  deleteCheckpoint(user: string, job: string, id: string): Promise<void> {
    return this.#tables.call("deleteCheckpoint", user, job, id);
  }

  deleteUser(user: string): Promise<RemovedTraining> {
    return this.#tables.call("deleteUser", user);
  }

  ping(): Promise<void> {
    return this.#tables.call("ping");
  }

  close(): Promise<void> {
    return this.#tables.close();
  }
}

class ReceivedFile implements IncomingFile {
  readonly #path: string;
  readonly #file: FileHandle;
  readonly #erase: () => Promise<void>;
  bytes = 0;

  constructor(path: string, file: FileHandle, erase: () => Promise<void>) {
    [this.#path, this.#file, this.#erase] = [path, file, erase];
  }

  async write(chunk: Uint8Array): Promise<void> {
    this.bytes += chunk.length;
    await orStoreFull(this.#file.writeFile(chunk));
  }

  /** Once it is on disk. */
  async finished(): Promise<string> {
    await orStoreFull(this.#file.sync());
    await this.#file.close();
    return this.#path;
  }

  async discard(): Promise<void> {
    await this.#file.close();
    await this.#erase().catch(() => undefined);
  }
}

async function orStoreFull<T>(work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (isFull(error))
      throw new PrefixdError("store_full", "The disk of the training store is full.", { cause: error });
    throw new PrefixdError("store_unavailable", "The training store cannot write its files.", {
      cause: error,
      retryAfter: 5,
    });
  }
}
