/** Training jobs as `/v1/fine_tuning/jobs` tells of them, and what their events say about how far they are. */
import { ApiError, asApiError, type Api } from "../api.ts";

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
  const [from, to] = [pace.at(-PACE), pace.at(-1)];
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

/** What has been read about a job, so that only what is new is asked for. */
interface Known {
  events: readonly JobEvent[];
  checkpoints: readonly Checkpoint[];
  /** Everything after its end was read, too. */
  complete: boolean;
}

const JOBS = "/v1/fine_tuning/jobs";

/** The caller's jobs, files and own prefixes. */
export class Jobs {
  readonly #api: Api;
  readonly #known = new Map<string, Known>();
  /** null: not asked for yet. */
  jobs: readonly Job[] | null = null;
  files: readonly TrainingFile[] = [];
  failed: ApiError | null = null;

  constructor(api: Api) {
    this.#api = api;
  }

  /** The server does not train. */
  get off(): boolean {
    return this.failed?.code === "training_off";
  }

  get busy(): boolean {
    return this.jobs?.some((job) => !isEnded(job)) ?? false;
  }

  progress(id: string): Progress {
    return progressOf(this.#known.get(id)?.events ?? []);
  }

  checkpoints(id: string): readonly Checkpoint[] {
    return this.#known.get(id)?.checkpoints ?? [];
  }

  /** Reads what is new of the list, of the job that is shown, and of those that run. Never rejects. */
  async load(shown: string | null): Promise<void> {
    try {
      const jobs = await this.#api.newest<Job>(JOBS);
      this.jobs = jobs;
      for (const job of jobs) if (job.id === shown || job.status === "running") await this.#read(job);
      this.failed = null;
    } catch (error) {
      this.failed = asApiError(error);
    }
  }

  /** Throws ApiError. */
  async loadFiles(): Promise<void> {
    this.files = await this.#api.newest<TrainingFile>("/v1/files");
  }

  /** Throws ApiError. */
  async create(order: object): Promise<Job> {
    const job = await this.#api.send<Job>("POST", JOBS, order);
    this.jobs = [job, ...(this.jobs ?? [])];
    return job;
  }

  /** Throws ApiError. */
  async cancel(id: string): Promise<void> {
    await this.#api.send("POST", `${JOBS}/${id}/cancel`);
  }

  async #read(job: Job): Promise<void> {
    const known = this.#known.get(job.id) ?? { events: [], checkpoints: [], complete: false };
    if (known.complete) return;
    const events = await this.#api.newest<JobEvent>(`${JOBS}/${job.id}/events`, known.events[0]?.id);
    const checkpoints = await this.#api.newest<Checkpoint>(`${JOBS}/${job.id}/checkpoints`);
    this.#known.set(job.id, { events: [...events, ...known.events], checkpoints, complete: isEnded(job) });
  }
}

/** What a job without settings has. */
export const DEFAULTS = { steps: 400, batch: 16, tokens: 10, rate: { plain: 0.1, network: 0.003 } };

/** As typed. */
export interface Order {
  readonly name: string;
  readonly kind: "prefix" | "network" | "prompt";
  readonly steps: string;
  readonly batch: string;
  readonly rate: string;
  readonly tokens: string;
  readonly initText: string;
  /** Id of the file to evaluate on; empty: a part of the training file. */
  readonly held: string;
}

export const EMPTY_ORDER: Order = {
  name: "",
  kind: "prefix",
  steps: String(DEFAULTS.steps),
  batch: String(DEFAULTS.batch),
  rate: String(DEFAULTS.rate.plain),
  tokens: String(DEFAULTS.tokens),
  initText: "",
  held: "",
};

export const defaultRate = (kind: Order["kind"]): number => DEFAULTS.rate[kind === "network" ? "network" : "plain"];

/** The body of `POST /v1/fine_tuning/jobs`; the server has the last word on values. */
export function orderBody(order: Order, model: string, file: string): object {
  const { name, kind, steps, batch, rate, tokens, initText, held } = order;
  return {
    model,
    training_file: file,
    ...(held === "" ? {} : { validation_file: held }),
    prefix_id: name,
    method: {
      type: "supervised",
      supervised: {
        hyperparameters: {
          n_steps: Number(steps),
          batch_size: Number(batch),
          // As few digits as the typed rate has: 0.3 / 0.1 is not quite 3.
          learning_rate_multiplier: Number((Number(rate) / defaultRate(kind)).toPrecision(9)),
          num_virtual_tokens: Number(tokens),
          peft_type: kind === "prompt" ? "PROMPT_TUNING" : "PREFIX_TUNING",
          ...(kind === "network" ? { prefix_projection: true } : {}),
          ...(initText === "" ? {} : { init_text: initText }),
        },
      },
    },
  };
}

/** The same settings, to begin again. */
export function orderOf({ prefix_id, hyperparameters: given }: Job): Order {
  const kind = given.peft_type === "PROMPT_TUNING" ? "prompt" : given.prefix_projection === true ? "network" : "prefix";
  const factor = typeof given.learning_rate_multiplier === "number" ? given.learning_rate_multiplier : 1;
  return {
    ...EMPTY_ORDER,
    name: prefix_id,
    kind,
    steps: String(given.n_steps ?? DEFAULTS.steps),
    batch: String(typeof given.batch_size === "number" ? given.batch_size : DEFAULTS.batch),
    rate: String(Number((factor * defaultRate(kind)).toPrecision(9))),
    tokens: String(given.num_virtual_tokens ?? DEFAULTS.tokens),
    initText: given.init_text ?? "",
  };
}

/** A name for the prefix, from the name of the file that it learns. */
export function proposedName(filename: string): string {
  return filename
    .replace(/\.[^.]*$/, "")
    .replaceAll(/[^A-Za-z0-9._-]+/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 100);
}
