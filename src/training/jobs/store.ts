import type { Readable } from "node:stream";
import type { Triggers } from "../triggers/vocabulary.ts";
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

/** A replica's claim on a job: nobody else trains it until the claim has not been renewed for `CLAIM_MS`. */
export interface Claim {
  readonly user: string;
  readonly id: string;
  /** Unique to a process. */
  readonly holder: string;
}

/** Milliseconds until a claim lapses that is not renewed: a replica's lease, without which it serves nobody either. */
export const CLAIM_MS = 10_000;

/** A job that nobody holds. */
export interface WaitingJob {
  readonly job: TrainingJob;
  /** Jobs of its user that are being trained, on any replica. */
  readonly running: number;
}

/** The folder of a claimed job on this machine. */
export interface JobFolder {
  readonly path: string;
  /** The state that was kept cannot be read: training begins again, and ends with the same bits. */
  readonly isStateLost: boolean;
}

/** What a replica tells of a job that it has claimed. Absent fields stay unchanged. */
export interface JobProgress {
  readonly status?: "validating_files" | "running";
  readonly step?: number;
  readonly steps?: number;
  /** Tokens of all batches so far. */
  readonly tokens?: number;
  /** Tokens trained on under this claim, for the day's quota: those of repeated steps too. Telling it twice counts once. */
  readonly spent?: number;
  readonly triggers?: Triggers;
}

/** How a job ends. */
export type JobEnd = { readonly status: "succeeded" | "failed"; readonly error: JobError | null };

/** A user's file that is being received. It is gone after a crash. */
export interface IncomingFile {
  readonly bytes: number;
  /** @throws PrefixdError store_full */
  write(chunk: Uint8Array): Promise<void>;
  /** Deletes it without a trace, unless it has been kept. Never fails: what is left goes later. */
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
 * it trains; a job whose claim has lapsed waits again, with the state that was kept last. Contract suite:
 * test/contract/training-store.ts. Errors: `store_unavailable`, `store_full`, and where replicas share the store `removed`
 * for a user who is being removed. `now` is a Unix time in milliseconds.
 */
export interface TrainingStore {
  receive(user: string): Promise<IncomingFile>;
  /** Keeps a received file. Throws `training_quota_exceeded`. */
  putFile(file: TrainingFile, incoming: IncomingFile, quota: TrainingQuota): Promise<void>;
  /** null: the user has no such file. */
  getFile(user: string, id: string): Promise<TrainingFile | null>;
  listFiles(user: string, page: Page): Promise<TrainingFile[]>;
  /** Deletes it without a trace. False: the user has no such file. */
  deleteFile(user: string, id: string): Promise<boolean>;
  /** Its content; the caller reads it to the end or destroys it. Throws `training_file_not_found`, also while it is read. */
  contentOf(file: TrainingFile): Promise<Readable>;
  /** Bytes of a user's files. */
  storedBytes(user: string): Promise<number>;

  /** Throws `training_quota_exceeded`. A user's oldest ended jobs are forgotten when there are too many. */
  createJob(job: TrainingJob, quota: TrainingQuota, now: number): Promise<void>;
  getJob(user: string, id: string): Promise<TrainingJob | null>;
  listJobs(user: string, page: Page): Promise<TrainingJob[]>;
  /**
   * The oldest job of each user that nobody but `holder` holds and whose user has tokens left for the day. Claims lapse by
   * the caller's own clock, from when it first saw them: no clock of another machine matters.
   */
  waiting(quota: TrainingQuota, now: number, holder: string): Promise<WaitingJob[]>;
  /** Counts an attempt. null: it has ended, or another replica holds it. */
  claim(claim: Claim): Promise<TrainingJob | null>;
  /** Renews the claim; `step` never falls. `kept` false: the job is not the holder's any more. `dayTokens`: the user's tokens of this day. */
  progress(claim: Claim, progress: JobProgress, now: number): Promise<{ kept: boolean; dayTokens: number }>;
  /** Lets it wait again. */
  release(claim: Claim): Promise<void>;
  /** Its result is about to be registered: from now on it cannot be cancelled. False: the job is not the holder's any more. */
  seal(claim: Claim): Promise<boolean>;
  /** False: the job is not the holder's any more. */
  end(claim: Claim, end: JobEnd, now: number): Promise<boolean>;
  /** null: the user has no such job. Throws `training_job_ended`, also for one that is sealed. */
  cancel(user: string, id: string, now: number): Promise<TrainingJob | null>;
  /** The folder of a claimed job on this machine, which is made; the state that was kept last is in its STATE. */
  folderOf(user: string, id: string): Promise<JobFolder>;
  /** A path at which the training process can read a file, until the folder is left. Throws `training_file_not_found`. */
  dataIn(folder: string, file: TrainingFile): Promise<string>;
  /**
   * Keeps the state of the folder's STATE for whoever goes on with the job; until it is kept whole, that is the former one.
   * False: the job is not the holder's any more.
   */
  keepState(claim: Claim, folder: string): Promise<boolean>;
  /**
   * Call once nothing on this machine works in a job's folder any more: it is erased if the job has ended or is kept
   * elsewhere. Never fails: what is left goes at the next start.
   */
  leaveFolder(user: string, id: string): Promise<void>;
  /** Jobs that wait and that are held, of all users. */
  counts(): Promise<{ readonly queued: number; readonly running: number }>;

  /** Dropped where the job does not exist, or has very many, and where the store is full. */
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
