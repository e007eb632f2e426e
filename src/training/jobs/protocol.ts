/** What a server and the process that trains for it say to each other. */
import type { TrainRequest } from "../job.ts";
import type { Evaluation } from "../training.ts";
import type { JobError } from "./types.ts";

export interface ChildTask {
  readonly request: TrainRequest;
  /** For state, checkpoints and result. */
  readonly folder: string;
  /** Fingerprint of the server's model: no other one is trained for. */
  readonly base: string;
  /** Share of the time that training may take while the server generates. */
  readonly share: number;
}

export type ToChild =
  | { readonly kind: "start"; readonly task: ChildTask }
  /** Whether the server generates. */
  | { readonly kind: "busy"; readonly busy: boolean }
  /** The claim on the job has been renewed. */
  | { readonly kind: "held" }
  /** Ends after the update that is on its way, with its state kept. */
  | { readonly kind: "stop" };

export type FromChild =
  | {
      readonly kind: "begun";
      readonly step: number;
      readonly steps: number;
      readonly examples: number;
      readonly held: number;
    }
  | { readonly kind: "bad_line"; readonly line: number; readonly reason: string; readonly isHeld: boolean }
  /** `tokens` of all updates so far, `spent` since the last message. */
  | {
      readonly kind: "progress";
      readonly step: number;
      readonly loss: number;
      readonly tokens: number;
      readonly spent: number;
    }
  /** The state lies in the folder's STATE. */
  | { readonly kind: "saved" }
  /** The best values so far lie in the folder's `checkpointFolder(step)`. */
  | { readonly kind: "checkpoint"; readonly evaluation: Evaluation }
  /** The result lies in the folder's RESULT. */
  | { readonly kind: "done" }
  | { readonly kind: "stopped" }
  | { readonly kind: "failed"; readonly error: JobError }
  /** The last message. */
  | { readonly kind: "bye" };

/** In a job's folder. */
export const STATE = "training.state";
export const RESULT = "result";
export const checkpointFolder = (step: number): string => `checkpoint-${step}`;
