/** What a user may have of training, and the errors of those who want more. */
import { PrefixdError } from "../../errors.ts";
import type { TrainingQuota } from "./store.ts";
import type { TrainingFile, TrainingJob } from "./types.ts";

/** Records that a user may have, so that nobody fills a store with tiny ones. */
export const MOST_FILES = 1000;
export const MOST_JOBS = 100;
/** Of a job. */
export const MOST_EVENTS = 1000;

const quotaExceeded = (what: string): PrefixdError =>
  new PrefixdError("training_quota_exceeded", `For training a user may have ${what}`);

export const tooManyFiles = (): PrefixdError => quotaExceeded(`${MOST_FILES} files at most; delete some.`);

export const tooManyBytes = ({ bytes }: TrainingQuota, file: TrainingFile): PrefixdError =>
  quotaExceeded(`${bytes} bytes of files at most, and the file has ${file.bytes}; delete some.`);

export const tooManyJobs = ({ jobs }: TrainingQuota): PrefixdError =>
  quotaExceeded(`${jobs} jobs at once; wait until one has ended, or cancel it.`);

export const tooManyTokens = ({ tokensPerDay }: TrainingQuota): PrefixdError =>
  quotaExceeded(`${tokensPerDay} tokens a day; try again tomorrow (UTC).`);

export const jobEnded = ({ status }: Pick<TrainingJob, "status">): PrefixdError =>
  new PrefixdError("training_job_ended", `The job has ended (${status}), so it cannot be cancelled.`);

export const jobSealed = (): PrefixdError =>
  new PrefixdError(
    "training_job_ended",
    "The job has trained to its end and is being registered: it cannot be cancelled.",
  );

export const noSuchFile = (field?: string): PrefixdError =>
  new PrefixdError("training_file_not_found", "There is no such file.", field === undefined ? {} : { field });
export const noSuchJob = (): PrefixdError =>
  new PrefixdError("training_job_not_found", "There is no such training job.");

/** For what can be done without: drops the error of a full store, and throws others. */
export function unlessFull(error: unknown): void {
  if (!(error instanceof PrefixdError) || error.code !== "store_full") throw error;
}
