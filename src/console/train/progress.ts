/** Training jobs as `/v1/fine_tuning/jobs` tells of them, and what their events say about how far they are. */

export interface TrainingFile {
  readonly id: string;
  readonly filename: string;
  readonly bytes: number;
  /** Unix time in seconds, as all times here. */
  readonly created_at: number;
}

export interface Hyperparameters {
  readonly n_steps?: number;
  readonly n_epochs?: number | "auto";
  readonly batch_size?: number | "auto";
  readonly learning_rate_multiplier?: number | "auto";
  readonly peft_type?: string;
  readonly num_virtual_tokens?: number;
  readonly num_candidates?: number;
  readonly prefix_projection?: boolean;
  readonly init_text?: string;
}

export interface Job {
  readonly id: string;
  readonly status: "validating_files" | "queued" | "running" | "succeeded" | "failed" | "cancelled";
  /** The prefix that it becomes. */
  readonly prefix_id: string;
  readonly created_at: number;
  readonly finished_at: number | null;
  readonly error: { readonly code: string; readonly message: string } | null;
  readonly hyperparameters: Hyperparameters;
  readonly training_file: string;
  readonly trained_tokens: number | null;
  /** The best of a search so far. `text` null: it is read as other tokens. */
  readonly triggers: { readonly text: string | null; readonly token_ids: readonly number[] } | null;
}

export interface JobEvent {
  readonly id: string;
  readonly created_at: number;
  readonly level: "info" | "warn" | "error";
  readonly message: string;
  readonly data: {
    readonly step?: number;
    readonly total_steps?: number | null;
    readonly train_loss?: number;
    readonly full_valid_loss?: number;
    readonly full_valid_mean_token_accuracy?: number;
  };
}

export interface Checkpoint {
  readonly id: string;
  readonly step_number: number;
  readonly fine_tuned_model_checkpoint: string;
}

/** Tokens are searched for, instead of values trained. */
export const isSearch = ({ hyperparameters }: Job): boolean => hyperparameters.peft_type === "TRIGGERS";

export const isEnded = ({ status }: Job): boolean =>
  status === "succeeded" || status === "failed" || status === "cancelled";

export interface Evaluation {
  readonly step: number;
  /** Mean of the held-out examples' tokens, in nats. */
  readonly loss: number;
  /** Share of them that are the likeliest token. */
  readonly accuracy: number;
}

export interface Progress {
  readonly step: number;
  /** null: not known yet. */
  readonly steps: number | null;
  /** [step, loss of its batch], in order of steps. */
  readonly losses: readonly (readonly [number, number])[];
  readonly evaluations: readonly Evaluation[];
  readonly warnings: readonly string[];
  /** At the pace of the last steps; null: unknown. */
  readonly secondsLeft: number | null;
}

/** Reports by which the pace is measured. */
const PACE = 10;

/** @param events the newest first. A job that was resumed has told of some steps twice: the newest counts */
export function progressOf(events: readonly JobEvent[]): Progress {
  const losses = new Map<number, number>();
  const evaluations = new Map<number, Evaluation>();
  const warnings: string[] = [];
  const pace: { at: number; step: number }[] = [];
  let steps: number | null = null;
  for (const { created_at, level, message, data } of [...events].reverse()) {
    if (level === "warn") warnings.push(message);
    const { step } = data;
    if (step === undefined) continue;
    if (data.train_loss !== undefined) {
      steps = data.total_steps ?? steps;
      losses.set(step, data.train_loss);
      if (step <= (pace.at(-1)?.step ?? 0)) pace.length = 0;
      pace.push({ at: created_at, step });
    }
    if (data.full_valid_loss !== undefined)
      evaluations.set(step, { step, loss: data.full_valid_loss, accuracy: data.full_valid_mean_token_accuracy ?? NaN });
  }
  const [from, to] = [pace[Math.max(0, pace.length - PACE)], pace.at(-1)];
  const isPaced = from !== undefined && to !== undefined && to.step > from.step && steps !== null;
  return {
    step: to?.step ?? 0,
    steps,
    losses: [...losses].sort(([a], [b]) => a - b),
    evaluations: [...evaluations.values()].sort((a, b) => a.step - b.step),
    warnings,
    secondsLeft: isPaced ? ((to.at - from.at) / (to.step - from.step)) * (steps! - to.step) : null,
  };
}
