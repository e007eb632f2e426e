import type { JobCheckpoint, JobError, JobEvent, TrainingFile, TrainingJob } from "./types.ts";

/** A page of a user's records, in order of creation; `desc`: the newest first. */
export interface Page {
  /** The id of the last record before the page, which need not exist any more. */
  readonly after?: string;
  readonly limit: number;
  readonly order: "asc" | "desc";
}

/** Of one user. */
export interface TrainingQuota {
  /** Jobs that have not ended. */
  readonly jobs: number;
  /** Bytes of all files. */
  readonly bytes: number;
  /** Tokens trained on in a UTC day. */
  readonly tokensPerDay: number;
}

/** A replica's claim on a job, which lapses at `until`. */
export interface Claim {
  readonly user: string;
  readonly id: string;
  readonly holder: string;
  readonly until: number;
}

/** What a replica tells of a job that it has claimed. Absent fields stay unchanged. */
export interface JobProgress {
  readonly status?: "validating_files" | "running";
  readonly step?: number;
  readonly steps?: number;
  /** Tokens of all batches so far. */
  readonly tokens?: number;
  /** Tokens trained on since the last call, for the day's quota: those of repeated steps too. */
  readonly spent?: number;
}

/** How a job ends. */
export type JobEnd = { readonly status: "succeeded" | "failed"; readonly error: JobError | null };

/** A user's file that is being received. It is gone after a crash. */
export interface IncomingFile {
  readonly bytes: number;
  /** @throws PrefixdError store_full */
  write(chunk: Uint8Array): Promise<void>;
  /** Overwrites and deletes it, unless it has been kept. Never fails: what is left goes at the next start. */
  discard(): Promise<void>;
}

/** What was removed with a user. */
export interface RemovedTraining {
  readonly files: number;
  readonly jobs: number;
  /** Bytes of the files. */
  readonly bytes: number;
}

/**
 * Files, jobs, events and checkpoints, and the queue of jobs that wait. A replica claims a job and renews the claim while
 * it trains; a job whose claim has lapsed waits again, with the state in its folder. Contract suite:
 * test/contract/training-store.ts. Errors: `store_unavailable`, `store_full`. `now` is a Unix time in milliseconds.
 */
export interface TrainingStore {
  receive(user: string): Promise<IncomingFile>;
  /** Keeps a received file. Throws `training_quota_exceeded`. */
  putFile(file: TrainingFile, incoming: IncomingFile, quota: TrainingQuota): Promise<void>;
  /** null: the user has no such file. */
  getFile(user: string, id: string): Promise<TrainingFile | null>;
  listFiles(user: string, page: Page): Promise<TrainingFile[]>;
  /** Overwrites and deletes it. False: the user has no such file. */
  deleteFile(user: string, id: string): Promise<boolean>;
  /** Where the content of a file can be read. */
  pathOf(file: TrainingFile): string;
  /** Bytes of a user's files. */
  storedBytes(user: string): Promise<number>;

  /** Throws `training_quota_exceeded`. A user's oldest ended jobs are forgotten when there are too many. */
  createJob(job: TrainingJob, quota: TrainingQuota, now: number): Promise<void>;
  getJob(user: string, id: string): Promise<TrainingJob | null>;
  listJobs(user: string, page: Page): Promise<TrainingJob[]>;
  /** The oldest job of each user that nobody holds and whose user has tokens left for the day. */
  waiting(quota: TrainingQuota, now: number): Promise<TrainingJob[]>;
  /** Counts an attempt. null: it has ended, or another replica holds it. */
  claim(claim: Claim, now: number): Promise<TrainingJob | null>;
  /** Renews the claim; `step` never falls. `kept` false: the job is not the holder's any more. `dayTokens`: the user's tokens of this day. */
  progress(claim: Claim, progress: JobProgress, now: number): Promise<{ kept: boolean; dayTokens: number }>;
  /** Lets it wait again. */
  release(claim: Claim): Promise<void>;
  /** False: the job is not the holder's any more. */
  end(claim: Claim, end: JobEnd, now: number): Promise<boolean>;
  /** null: the user has no such job. Throws `training_job_ended`. */
  cancel(user: string, id: string, now: number): Promise<TrainingJob | null>;
  /** The folder of a claimed job's state, which is made. */
  folderOf(user: string, id: string): Promise<string>;
  /** Overwrites and deletes it. Call once nothing writes there any more; what a crash leaves goes at the next start. */
  clearFolder(user: string, id: string): Promise<void>;
  /** Jobs that wait and that are held, of all users. */
  counts(): Promise<{ readonly queued: number; readonly running: number }>;

  /** Dropped where the job does not exist, or has very many. */
  addEvent(user: string, job: string, event: Omit<JobEvent, "id">): Promise<void>;
  listEvents(user: string, job: string, page: Page): Promise<JobEvent[]>;
  /** Dropped where the job does not exist. */
  addCheckpoint(user: string, job: string, checkpoint: Omit<JobCheckpoint, "id">): Promise<void>;
  listCheckpoints(user: string, job: string, page: Page): Promise<JobCheckpoint[]>;
  deleteCheckpoint(user: string, job: string, id: string): Promise<void>;

  /** Deletes all of a user, also what is being received, with no byte left behind. */
  deleteUser(user: string): Promise<RemovedTraining>;
  ping(): Promise<void>;
  close(): Promise<void>;
}
