/** Training jobs, their files, events and checkpoints: plain data, stored as JSON. Times are Unix times in milliseconds. */
import type { TrainingKind } from "../options.ts";
import type { Triggers } from "../triggers/vocabulary.ts";

export { TRIGGERS } from "../options.ts";

/** An uploaded file of examples. */
export interface TrainingFile {
  readonly id: string;
  readonly user: string;
  /** As the client named it. */
  readonly filename: string;
  readonly bytes: number;
  readonly createdAt: number;
}

/** OpenAI's states. Ours go from queued to validating_files to running, and back to queued when a process ends. */
export type JobStatus = "validating_files" | "queued" | "running" | "succeeded" | "failed" | "cancelled";

/** What is trained; all else is as in `prefixd train`. */
export interface JobSettings {
  readonly kind: TrainingKind;
  /** Of triggers: their number. */
  readonly virtualTokens: number;
  /** Tokens that an update of triggers tries; absent for other kinds. */
  readonly candidates?: number;
  /** Width of the network behind a prefix; null: without. */
  readonly hidden: number | null;
  readonly batchSize: number;
  /** Updates, unless there are `epochs`; null: as the number of examples asks for. */
  readonly steps: number | null;
  readonly epochs: number | null;
  /** Times the default learning rate. */
  readonly rateFactor: number;
  readonly initText: string | null;
  readonly seed: number;
}

export interface JobError {
  readonly code: string;
  readonly message: string;
  readonly param: string | null;
}

export interface TrainingJob {
  readonly id: string;
  readonly user: string;
  /** Name of the user's prefix that it becomes. */
  readonly name: string;
  /** Fingerprint of the base model. */
  readonly base: string;
  readonly trainingFile: string;
  readonly validationFile: string | null;
  readonly settings: JobSettings;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly status: JobStatus;
  readonly createdAt: number;
  readonly finishedAt: number | null;
  readonly error: JobError | null;
  /** Updates done and to be done; null: not known yet. */
  readonly step: number;
  readonly steps: number | null;
  /** Tokens of all batches so far. */
  readonly tokens: number;
  /** Starts since the last progress. */
  readonly attempts: number;
  /** Of the best evaluation so far, in the end of the result; absent: none yet, or another kind is trained. */
  readonly triggers?: Triggers;
}

export interface JobEvent {
  /** Within a job in order of time. */
  readonly id: string;
  readonly createdAt: number;
  readonly level: "info" | "warn" | "error";
  readonly message: string;
  readonly data: Readonly<Record<string, unknown>> | null;
}

export interface JobCheckpoint {
  readonly id: string;
  readonly createdAt: number;
  readonly step: number;
  /** Name of the prefix. */
  readonly name: string;
  /** On the held-out examples. */
  readonly loss: number;
  readonly accuracy: number;
}

export const isEnded = ({ status }: Pick<TrainingJob, "status">): boolean =>
  status === "succeeded" || status === "failed" || status === "cancelled";
