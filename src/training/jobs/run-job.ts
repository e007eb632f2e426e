import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { counted } from "../../counted.ts";
import { PrefixdError } from "../../errors.ts";
import type { PrefixUpload } from "../../prefixes/registry-types.ts";
import type { TrainRequest } from "../job.ts";
import type { Evaluation } from "../training.ts";
import { shownTriggers, type Triggers } from "../triggers/vocabulary.ts";
import { requestOf } from "./job-request.ts";
import { checkpointFolder, RESULT, type FromChild, type ToChild } from "./protocol.ts";
import { checkpointStart, sweepCheckpoints, type SweepParts } from "./checkpoints.ts";
import { readResult, shownOf } from "./result.ts";
import {
  CLAIM_MS,
  type Claim,
  type JobEnd,
  type JobProgress,
  type TrainingQuota,
  type TrainingStore,
} from "./store.ts";
import type { JobError, JobEvent, TrainingJob } from "./types.ts";

/** What a run needs of the server. */
export interface RunParts extends SweepParts {
  readonly quota: TrainingQuota;
  /** Starts the process that trains, with an IPC channel and its errors on stderr. */
  readonly startChild: () => ChildProcess;
  /**
   * Registers a prefix of the claim's user, with all checks, and replaces one of the name. Throws
   * `precondition_failed` if the claim has been lost to another replica.
   */
  readonly register: (claim: Claim, name: string, upload: PrefixUpload, signal: AbortSignal) => Promise<void>;
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
const RENEW_MS = CLAIM_MS / 10;
const BUSY_MS = 20;
/** Pause before what a store was too far away for is tried again. */
const RETRY_MS = 250;
/** Share of the time that sending states to the store may take. */
const KEEP_SHARE = 0.1;
/** Time for the child to keep its state when it is stopped, and to end. */
const STOP_MS = 15_000;
/** Starts that got no further, after which a job has failed. */
const MOST_ATTEMPTS = 3;
/** Checkpoints that stay prefixes. */
const KEPT_CHECKPOINTS = 3;

/**
 * One claimed job, from the state that was kept last to its end, or until it must wait again. While the store is away the
 * process goes on, and what it has said is told when the store is back: unless the claim is another replica's by then.
 */
export class JobRun {
  readonly user: string;
  readonly id: string;
  readonly #parts: RunParts;
  readonly #job: TrainingJob;
  readonly #claim: Claim;
  readonly #killed = new AbortController();
  #child: ChildProcess | null = null;
  #steps: number | null = null;
  #folder = "";
  /** The child's last word. */
  #outcome: FromChild | null = null;
  #stopping = false;
  #stderr = "";
  /** Tokens trained on under this claim. */
  #spent = 0;
  /** States that the child has saved, and whether the last one has not been kept yet. */
  #saves = 0;
  #isUnkept = false;
  #nextKeep = -Infinity;
  #hasWarned = false;

  constructor(parts: RunParts, job: TrainingJob, holder: string) {
    [this.#parts, this.#job] = [parts, job];
    [this.user, this.id] = [job.user, job.id];
    this.#claim = { user: job.user, id: job.id, holder };
  }

  /** Never rejects. */
  async run(): Promise<void> {
    const { store, log } = this.#parts;
    const { user, id } = this;
    // A renewal that fails is made up for by the next one.
    const renew = setInterval(() => void this.#progress({}).catch(() => undefined), RENEW_MS);
    try {
      const outcome = await this.#train();
      if (outcome === "done") await this.#finish();
      else if (outcome !== null) await this.#fail(outcome);
      else if (!this.#killed.signal.aborted) await store.release(this.#claim);
    } catch (error) {
      // A store that is away: the claim lapses, or is let go of, and the job goes on from its state.
      log("error", { err: error, job: id, user }, "a training job could not go on");
      await store.release(this.#claim).catch(() => undefined);
    }
    clearInterval(renew);
    await store.leaveFolder(user, id);
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
    await this.#storing(() => sweepCheckpoints(this.#parts, this.#job));
    const { path: folder, isStateLost } = await store.folderOf(this.user, this.id);
    this.#folder = folder;
    if (existsSync(join(folder, RESULT))) return "done";
    if (isStateLost) await this.#event("warn", "The state that was kept is lost: it begins again.");
    const request = await this.#request(folder);
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

  async #request(folder: string): Promise<TrainRequest | JobError> {
    const { store, model, cacheDir, threads } = this.#parts;
    const { trainingFile, validationFile, settings } = this.#job;
    const paths: (string | null)[] = [];
    for (const [param, id] of [
      ["training_file", trainingFile],
      ["validation_file", validationFile],
    ] as const) {
      if (id === null) {
        paths.push(null);
        continue;
      }
      const file = await store.getFile(this.user, id);
      if (file === null) return { code: "training_file_not_found", message: `The file ${id} has been deleted.`, param };
      try {
        paths.push(await store.dataIn(folder, file));
      } catch (error) {
        if (!isRefusal(error)) throw error;
        return { code: error.code, message: error.message, param };
      }
    }
    const [data, evalData] = paths;
    return requestOf(settings, { model, cacheDir, threads, data: data!, evalData: evalData ?? null });
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
    child.on("message", (message: FromChild) => {
      if (message.kind === "saved") this.#saves++;
      const saves = this.#saves;
      inOrder(() => (message.kind === "saved" ? this.#saved(saves, folder) : this.#heard(message, folder)));
    });
    child.on("error", (error) => void failures.push(error));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#stderr = (this.#stderr + text).slice(-4000)));
    let busy = isBusy();
    const watch = setInterval(() => {
      if (isBusy() !== busy) this.#tell({ kind: "busy", busy: (busy = !busy) });
    }, BUSY_MS);
    this.#tell({ kind: "start", task: { request, folder, base: this.#job.base, share } });
    this.#tell({ kind: "busy", busy });
    if (this.#killed.signal.aborted) child.kill("SIGKILL");
    await once(child, "close").catch(() => undefined);
    clearInterval(watch);
    await handled;
    if (failures[0] !== undefined) throw failures[0];
  }

  async #heard(message: Exclude<FromChild, { kind: "saved" }>, folder: string): Promise<void> {
    switch (message.kind) {
      case "begun": {
        const { step, steps, examples, held } = message;
        this.#steps = steps;
        await this.#progress({ status: "running", step, steps });
        const what = `${counted(examples, "example")}, ${counted(steps, "step")}, evaluated on ${counted(held, "other")}`;
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
        this.#spent += spent;
        await this.#progress({ step, tokens, spent: this.#spent });
        return this.#event("info", `Step ${step}/${this.#steps}: training loss=${loss.toFixed(4)}`, {
          step,
          train_loss: loss,
          total_steps: this.#steps,
        });
      }
      case "checkpoint":
        return this.#checkpoint(message.evaluation, join(folder, checkpointFolder(message.evaluation.step)));
      case "stopped":
        if (this.#isUnkept) await this.#keep(folder);
        this.#outcome = message;
        return;
      case "done":
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
    const tell = (): ReturnType<TrainingStore["progress"]> => store.progress(this.#claim, progress, Date.now());
    // The next renewal is as good as a repeated one.
    const { kept, dayTokens } = await (Object.keys(progress).length === 0 ? tell() : this.#storing(tell));
    if (!kept) return this.kill();
    this.#tell({ kind: "held" });
    if (dayTokens < quota.tokensPerDay || this.#stopping) return;
    this.stop();
    await this.#event("warn", `The ${quota.tokensPerDay} tokens of this day are used up: it goes on tomorrow (UTC).`);
  }

  /** Keeps the state that the child has saved, unless it has saved a later one by now or the last one was just now. */
  async #saved(number: number, folder: string): Promise<void> {
    this.#isUnkept = true;
    if (number === this.#saves && performance.now() >= this.#nextKeep) await this.#keep(folder);
  }

  /** Training goes on without: a later state may be kept, and until then the job would go on from the former one. */
  async #keep(folder: string): Promise<void> {
    const { store, log } = this.#parts;
    const began = performance.now();
    try {
      if (!(await store.keepState(this.#claim, folder))) return this.kill();
      this.#isUnkept = false;
    } catch (error) {
      if (!isAway(error) && !isRefusal(error)) throw error;
      if (!this.#hasWarned)
        log("warn", { err: error, job: this.id, user: this.user }, "a training's state was not kept");
      this.#hasWarned = true;
    }
    const now = performance.now();
    this.#nextKeep = now + (now - began) * (1 / KEEP_SHARE - 1);
  }

  async #checkpoint({ step, loss, accuracy }: Evaluation, dir: string): Promise<void> {
    const { store, register, unregister } = this.#parts;
    const { user, id } = this;
    const name = `${checkpointStart(this.#job)}${step}`;
    let triggers: Triggers | null = null;
    try {
      const upload = await readResult(dir);
      triggers = shownOf(upload);
      await rm(dir, { recursive: true });
      if (triggers !== null) await this.#progress({ triggers });
      await this.#storing(() => register(this.#claim, name, upload, this.#killed.signal));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      await this.#progress({});
      if (this.#killed.signal.aborted) return;
      return this.#event("warn", `The checkpoint of step ${step} is not registered: ${error.message}`);
    }
    const checkpoint = { createdAt: Date.now(), step, name, loss, accuracy };
    await this.#storing(() => store.addCheckpoint(user, id, checkpoint));
    await this.#event("info", `Checkpoint created at step ${step}: ${name}`, {
      step,
      full_valid_loss: loss,
      full_valid_mean_token_accuracy: accuracy,
      ...(triggers === null ? {} : { triggers: { text: triggers.text, token_ids: triggers.ids } }),
    });
    await this.#storing(async () => {
      const all = await store.listCheckpoints(user, id, { limit: 100, order: "desc" });
      for (const old of all.slice(KEPT_CHECKPOINTS)) {
        await unregister(this, old.name);
        await store.deleteCheckpoint(user, id, old.id);
      }
    });
  }

  /**
   * Registers the result, then says so; after a crash in between both are repeated. It is sealed before: a job that is
   * cancelled has registered nothing, and one that has registered its result cannot be cancelled.
   */
  async #finish(): Promise<void> {
    const { store, register, onEnd } = this.#parts;
    const { user } = this;
    const { name } = this.#job;
    const upload = await readResult(join(this.#folder, RESULT));
    const triggers = shownOf(upload);
    if (triggers !== null) await this.#storing(() => store.progress(this.#claim, { triggers }, Date.now()));
    try {
      if (!(await this.#storing(() => store.seal(this.#claim)))) return;
      await this.#storing(() => register(this.#claim, name, upload, this.#killed.signal));
    } catch (error) {
      if (!isRefusal(error)) throw error;
      return this.#fail({ code: error.code, message: error.message, param: null });
    }
    this.#parts.log("info", { job: this.id, user, prefix: name }, "a trained prefix is registered");
    if (triggers !== null) await this.#event("info", `Found ${shownTriggers(triggers)}`);
    await this.#event("info", `New fine-tuned model created: ${name}`);
    if (!(await this.#end({ status: "succeeded", error: null }))) return;
    onEnd("succeeded");
    await this.#event("info", "The job has successfully completed");
  }

  async #fail(error: JobError): Promise<void> {
    if (!(await this.#end({ status: "failed", error }))) return;
    this.#parts.onEnd("failed");
    await this.#event("error", `The job failed: ${error.message}`);
  }

  #end(end: JobEnd): Promise<boolean> {
    return this.#storing(() => this.#parts.store.end(this.#claim, end, Date.now()));
  }

  /** Nothing of a run that was ended: the job may be another replica's. */
  async #event(level: JobEvent["level"], message: string, data: JobEvent["data"] = null): Promise<void> {
    if (this.#killed.signal.aborted) return;
    const event = { createdAt: Date.now(), level, message, data };
    await this.#storing(() => this.#parts.store.addEvent(this.user, this.id, event));
  }

  /** Repeats what the store is away for, until this run is ended. */
  async #storing<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!isAway(error) || this.#killed.signal.aborted || this.#stopping) throw error;
      }
      await sleep(RETRY_MS, undefined, { signal: this.#killed.signal }).catch(() => undefined);
    }
  }

  #tell(message: ToChild): void {
    // A child that has gone is noticed by its end.
    if (this.#child?.connected === true) this.#child.send(message, () => undefined);
  }
}

const isAway = (error: unknown): boolean => error instanceof PrefixdError && error.code === "store_unavailable";

/** Whether an error says something about what was registered, rather than about the server's state. */
function isRefusal(error: unknown): error is PrefixdError {
  return error instanceof PrefixdError && (error.status < 500 || error.code === "store_full");
}
