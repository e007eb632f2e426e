/** The caller's training jobs and files, and what has been read about them so far. */
import { Turns } from "../answers.ts";
import { asApiError, type Api, type ApiError } from "../api.ts";
import {
  isEnded,
  progressOf,
  type Checkpoint,
  type Job,
  type JobEvent,
  type Progress,
  type TrainingFile,
} from "./progress.ts";

/** What has been read about a job, so that only what is new is asked for. */
interface Known {
  events: readonly JobEvent[];
  checkpoints: readonly Checkpoint[];
  /** Everything after its end was read, too. */
  complete: boolean;
}

const JOBS = "/v1/fine_tuning/jobs";

export class Jobs {
  readonly #api: Api;
  readonly #known = new Map<string, Known>();
  /** null: not asked for yet. */
  jobs: readonly Job[] | null = null;
  files: readonly TrainingFile[] = [];
  failed: ApiError | null = null;
  readonly #turns = new Turns();
  readonly #fileTurns = new Turns();

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
    const isNewest = this.#turns.begin();
    try {
      const jobs = await this.#api.newest<Job>(JOBS);
      if (!isNewest()) return;
      this.jobs = jobs;
      for (const job of jobs)
        if (isNewest() && (job.id === shown || job.status === "running")) await this.#read(job, isNewest);
      if (isNewest()) this.failed = null;
    } catch (error) {
      if (isNewest()) this.failed = asApiError(error);
    }
  }

  /** Throws ApiError. */
  async loadFiles(): Promise<void> {
    const isNewest = this.#fileTurns.begin();
    const files = await this.#api.newest<TrainingFile>("/v1/files");
    if (isNewest()) this.files = files;
  }

  /** Throws ApiError. */
  async create(order: object): Promise<Job> {
    const job = await this.#api.send<Job>("POST", JOBS, order);
    // A list that was asked for before may lack it.
    this.#turns.begin();
    this.jobs = [job, ...(this.jobs ?? [])];
    return job;
  }

  /** Throws ApiError. */
  async cancel(id: string): Promise<void> {
    await this.#api.send("POST", `${JOBS}/${id}/cancel`);
  }

  async #read(job: Job, isNewest: () => boolean): Promise<void> {
    const known = this.#known.get(job.id) ?? { events: [], checkpoints: [], complete: false };
    if (known.complete) return;
    const events = await this.#api.newest<JobEvent>(`${JOBS}/${job.id}/events`, known.events[0]?.id);
    const checkpoints = await this.#api.newest<Checkpoint>(`${JOBS}/${job.id}/checkpoints`);
    if (!isNewest()) return;
    this.#known.set(job.id, { events: [...events, ...known.events], checkpoints, complete: isEnded(job) });
  }
}
