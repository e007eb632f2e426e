import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { PrefixdError } from "../../errors.ts";
import { readAdapterFolder } from "../../prefixes/folder.ts";
import type { TrainRequest } from "../job.ts";
import type { Evaluation } from "../training.ts";
import { requestOf } from "./job-request.ts";
import { checkpointFolder, RESULT, type FromChild, type ToChild } from "./protocol.ts";
import type { Claim, JobProgress, TrainingQuota, TrainingStore } from "./store.ts";
import { isEnded, type JobError, type JobEvent, type TrainingFile, type TrainingJob } from "./types.ts";

/** What a run needs of the server. */
export interface RunParts {
  readonly store: TrainingStore;
  readonly quota: TrainingQuota;
  /** Starts the process that trains, with an IPC channel and its errors on stderr. */
  readonly startChild: () => ChildProcess;
  /** Registers PEFT's files as the user's prefix, with all checks, and replaces one of the name. */
  readonly register: (
    key: { readonly user: string; readonly name: string },
    files: { readonly config: Uint8Array; readonly weights: Uint8Array },
    signal: AbortSignal,
  ) => Promise<void>;
  /** Removes a prefix that need not exist. */
  readonly unregister: (key: { readonly user: string; readonly name: string }) => Promise<void>;
  /** Whether the server generates. */
  readonly isBusy: () => boolean;
  /** Charges the user's share of the model. */
  readonly charge: (user: string, tokens: number) => void;
  readonly model: string;
  readonly cacheDir: string;
  readonly threads: number;
  /** Share of the time that training may take while the server generates. */
  readonly share: number;
  readonly onTokens: (tokens: number) => void;
  readonly onEnd: (status: "succeeded" | "failed") => void;
  /** For the operator. */
  readonly log: (level: "info" | "warn" | "error", fields: Readonly<Record<string, unknown>>, message: string) => void;
}

/** A claim is renewed ten times before it lapses. */
export const LEASE_MS = 30_000;
const RENEW_MS = 3_000;
const BUSY_MS = 20;
/** Time for the child to keep its state when it is stopped, and to end. */
const STOP_MS = 15_000;
/** Starts that got no further, after which a job has failed. */
const MOST_ATTEMPTS = 3;
/** Checkpoints that stay prefixes. */
const KEPT_CHECKPOINTS = 3;

/** One claimed job, from its folder's state to its end, or until it must wait again. */
export class JobRun {
  readonly user: string;
  readonly id: string;
  readonly #parts: RunParts;
  readonly #job: TrainingJob;
  readonly #holder: string;
  readonly #killed = new AbortController();
  #child: ChildProcess | null = null;
  #steps: number | null = null;
  /** The child's last word. */
  #outcome: FromChild | null = null;
  #stopping = false;
  #stderr = "";

  constructor(parts: RunParts, job: TrainingJob, holder: string) {
    [this.#parts, this.#job, this.#holder] = [parts, job, holder];
    [this.user, this.id] = [job.user, job.id];
  }

  /** Never rejects. */
  async run(): Promise<void> {
    const { store, log } = this.#parts;
    const { user, id } = this;
    try {
      const outcome = await this.#train();
      if (outcome === "done") await this.#finish();
      else if (outcome !== null) await this.#fail(outcome);
      else if (!this.#killed.signal.aborted) await store.release(this.#claim());
    } catch (error) {
      // A store that is away: the claim lapses, or is let go of, and the job goes on from its state.
      log("error", { err: error, job: id, user }, "a training job could not go on");
      await store.release(this.#claim()).catch(() => undefined);
    }
    try {
      const job = await store.getJob(user, id);
      if (job === null || isEnded(job)) await store.clearFolder(user, id);
    } catch (error) {
      log("warn", { err: error, job: id, user }, "the folder of a training job could not be cleared");
    }
  }

  /** Lets it keep its state and wait again. */
  stop(): void {
    this.#stopping = true;
    this.#tell({ kind: "stop" });
    const child = this.#child;
    setTimeout(() => void child?.kill("SIGKILL"), STOP_MS).unref();
  }

  /** Ends it at once; nothing is registered any more. */
  kill(): void {
    this.#killed.abort();
    this.#child?.kill("SIGKILL");
  }

  /** "done", an error that ends the job, or null: it must wait again. */
  async #train(): Promise<"done" | JobError | null> {
    const { store } = this.#parts;
    const folder = await store.folderOf(this.user, this.id);
    if (existsSync(join(folder, RESULT))) return "done";
    const request = await this.#request();
    if ("code" in request) return request;
    await this.#event("info", `Validating training file: ${this.#job.trainingFile}`);
    if (this.#killed.signal.aborted || this.#stopping) return null;
    await this.#runChild(folder, request);
    const outcome = this.#outcome;
    if (this.#killed.signal.aborted || outcome?.kind === "stopped") return null;
    if (outcome?.kind === "done") return "done";
    if (outcome?.kind === "failed") return outcome.error;
    this.#parts.log("error", { job: this.id, user: this.user, stderr: this.#stderr }, "a training process has failed");
    const job = await store.getJob(this.user, this.id);
    if (job === null || job.attempts < MOST_ATTEMPTS) return null;
    const message = `The process that trains has ended ${job.attempts} times without getting further.`;
    return { code: "training_crashed", message, param: null };
  }

  async #request(): Promise<TrainRequest | JobError> {
    const { store, model, cacheDir, threads } = this.#parts;
    const { trainingFile, validationFile, settings } = this.#job;
    const files: (TrainingFile | null)[] = [];
    for (const [param, id] of [
      ["training_file", trainingFile],
      ["validation_file", validationFile],
    ] as const) {
      const file = id === null ? null : await store.getFile(this.user, id);
      if (id !== null && file === null)
        return { code: "training_file_not_found", message: `The file ${id} has been deleted.`, param };
      files.push(file);
    }
    const [data, held] = files.map((file) => (file === null ? null : store.pathOf(file)));
    return requestOf(settings, { model, cacheDir, threads, data: data!, evalData: held ?? null });
  }

  async #runChild(folder: string, request: TrainRequest): Promise<void> {
    const { startChild, isBusy, share } = this.#parts;
    const child = (this.#child = startChild());
    this.#parts.log("info", { job: this.id, user: this.user, pid: child.pid }, "a training process has started");
    let handled: Promise<void> = Promise.resolve();
    const failures: Error[] = [];
    const inOrder = (work: () => Promise<void>): void => {
      handled = handled.then(work).catch((error: Error) => {
        failures.push(error);
        child.kill("SIGKILL");
      });
    };
    child.on("message", (message: FromChild) => inOrder(() => this.#heard(message, folder)));
    child.on("error", (error) => void failures.push(error));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#stderr = (this.#stderr + text).slice(-4000)));
    let busy = isBusy();
    const watch = setInterval(() => {
      if (isBusy() !== busy) this.#tell({ kind: "busy", busy: (busy = !busy) });
    }, BUSY_MS);
    const renew = setInterval(() => inOrder(() => this.#progress({})), RENEW_MS);
    this.#tell({ kind: "start", task: { request, folder, base: this.#job.base, share } });
    this.#tell({ kind: "busy", busy });
    if (this.#killed.signal.aborted) child.kill("SIGKILL");
    await once(child, "close").catch(() => undefined);
    for (const timer of [watch, renew]) clearInterval(timer);
    await handled;
    if (failures[0] !== undefined) throw failures[0];
  }

  async #heard(message: FromChild, folder: string): Promise<void> {
    switch (message.kind) {
      case "begun": {
        const { step, steps, examples, held } = message;
        this.#steps = steps;
        await this.#progress({ status: "running", step, steps });
        const what = `${examples} examples, ${steps} steps, evaluated on ${held} others`;
        return this.#event(
          "info",
          step === 0 ? `Fine-tuning job started: ${what}` : `Fine-tuning job goes on after step ${step}`,
        );
      }
      case "bad_line": {
        const { trainingFile, validationFile } = this.#job;
        const file = message.isHeld ? validationFile : trainingFile;
        return this.#event("warn", `${file}: line ${message.line} is left out: ${message.reason}`);
      }
      case "progress": {
        const { step, loss, tokens, spent } = message;
        this.#parts.charge(this.user, spent);
        this.#parts.onTokens(spent);
        await this.#progress({ step, tokens, spent });
        return this.#event("info", `Step ${step}/${this.#steps}: training loss=${loss.toFixed(4)}`, {
          step,
          train_loss: loss,
          total_steps: this.#steps,
        });
      }
      case "checkpoint":
        return this.#checkpoint(message.evaluation, join(folder, checkpointFolder(message.evaluation.step)));
      case "done":
      case "stopped":
      case "failed":
        this.#outcome = message;
        return;
      case "bye":
        setTimeout(() => void this.#child?.kill("SIGKILL"), STOP_MS).unref();
    }
  }

  /** Renews the claim, too. Kills a job that is not ours any more; stops one whose user has no tokens left. */
  async #progress(progress: JobProgress): Promise<void> {
    const { store, quota } = this.#parts;
    const { kept, dayTokens } = await store.progress(this.#claim(), progress, Date.now());
    if (!kept) return this.kill();
    if (dayTokens < quota.tokensPerDay || this.#stopping) return;
    this.stop();
    await this.#event("warn", `The ${quota.tokensPerDay} tokens of this day are used up: it goes on tomorrow (UTC).`);
  }

  async #checkpoint({ step, loss, accuracy }: Evaluation, dir: string): Promise<void> {
    const { store, register, unregister } = this.#parts;
    const { user, id } = this;
    const name = `${this.#job.name}.step-${step}`;
    try {
      const { config, weights } = await readAdapterFolder(dir);
      await rm(dir, { recursive: true });
      await register({ user, name }, { config, weights }, this.#killed.signal);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return this.#event("warn", `The checkpoint of step ${step} is not registered: ${error.message}`);
    }
    await store.addCheckpoint(user, id, { createdAt: Date.now(), step, name, loss, accuracy });
    await this.#event("info", `Checkpoint created at step ${step}: ${name}`, {
      step,
      full_valid_loss: loss,
      full_valid_mean_token_accuracy: accuracy,
    });
    const all = await store.listCheckpoints(user, id, { limit: 100, order: "desc" });
    for (const old of all.slice(KEPT_CHECKPOINTS)) {
      await unregister({ user, name: old.name });
      await store.deleteCheckpoint(user, id, old.id);
    }
  }

  /** Registers the result, then says so; after a crash in between both are repeated. */
  async #finish(): Promise<void> {
    const { store, register, onEnd } = this.#parts;
    const { user, id } = this;
    const { name } = this.#job;
    const { config, weights } = await readAdapterFolder(join(await store.folderOf(user, id), RESULT));
    try {
      if (!(await this.#isOurs())) return;
      await register({ user, name }, { config, weights }, this.#killed.signal);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return this.#fail({ code: error.code, message: error.message, param: null });
    }
    await this.#event("info", `New fine-tuned model created: ${name}`);
    if (!(await store.end(this.#claim(), { status: "succeeded", error: null }, Date.now()))) return;
    onEnd("succeeded");
    await this.#event("info", "The job has successfully completed");
  }

  async #isOurs(): Promise<boolean> {
    return (await this.#parts.store.progress(this.#claim(), {}, Date.now())).kept;
  }

  async #fail(error: JobError): Promise<void> {
    if (!(await this.#parts.store.end(this.#claim(), { status: "failed", error }, Date.now()))) return;
    this.#parts.onEnd("failed");
    await this.#event("error", `The job failed: ${error.message}`);
  }

  #event(level: JobEvent["level"], message: string, data: JobEvent["data"] = null): Promise<void> {
    return this.#parts.store.addEvent(this.user, this.id, { createdAt: Date.now(), level, message, data });
  }

  #claim(): Claim {
    return { user: this.user, id: this.id, holder: this.#holder, until: Date.now() + LEASE_MS };
  }

  #tell(message: ToChild): void {
    // A child that has gone is noticed by its end.
    if (this.#child?.connected === true) this.#child.send(message, () => undefined);
  }
}

/** Whether an error says something about what was registered, rather than about the server's state. */
function isRefusal(error: unknown): error is PrefixdError {
  return error instanceof PrefixdError && (error.status < 500 || error.code === "store_full");
}
