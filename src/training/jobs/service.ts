import { randomBytes } from "node:crypto";
import type { Readable } from "node:stream";
import { PrefixdError } from "../../errors.ts";
import { checkPrefixName } from "../../prefixes/name.ts";
import { checkData } from "./check-data.ts";
import { isTimedId, timedId } from "./ids.ts";
import { noSuchFile, noSuchJob } from "./limits.ts";
import type { JobRunner } from "./runner.ts";
import type { IncomingFile, Page, TrainingQuota, TrainingStore } from "./store.ts";
import type { JobCheckpoint, JobEvent, JobSettings, TrainingFile, TrainingJob } from "./types.ts";

/** A job as its user asks for it. */
export interface JobOrder {
  readonly trainingFile: string;
  readonly validationFile: string | null;
  /** Name of the prefix; null: made from `suffix`. */
  readonly name: string | null;
  readonly suffix: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  readonly settings: JobSettings;
}

/** Room for a checkpoint's step in the longest name. */
const LONGEST_NAME = 100;

export interface ServiceParts {
  readonly store: TrainingStore;
  readonly runner: Pick<
    JobRunner,
    "look" | "kill" | "lapse" | "endOfUser" | "suspendUser" | "readmitUser" | "isRemoved"
  >;
  /** Ends a job on whichever replica trains it, by `endJob`. Resolves when none does. Throws `store_unavailable`. */
  readonly endEverywhere: (user: string, id: string) => Promise<void>;
  /** Removes checkpoints of a job that were registered but not recorded. */
  readonly sweep: (job: TrainingJob) => Promise<void>;
  readonly quota: TrainingQuota;
  /** Fingerprint of the base model. */
  readonly base: string;
  readonly onCancel: () => void;
}

/**
 * A user's files and jobs. What belongs to another user does not exist, and takes the same work.
 * Throws also `store_unavailable`, `store_full`, and `removed` for a user who is being removed.
 */
export class TrainingService {
  readonly #parts: ServiceParts;
  /** Files that are being read, and whose they are. */
  readonly #contents = new Map<Readable, string>();

  constructor(parts: ServiceParts) {
    this.#parts = parts;
  }

  /**
   * Writes and checks a file while it arrives. The caller keeps or discards it.
   * @throws PrefixdError training_data_invalid, training_quota_exceeded; nothing is left in that case
   */
  async receive(user: string, chunks: AsyncIterable<Uint8Array>): Promise<IncomingFile> {
    const { store, quota } = this.#parts;
    const room = quota.bytes - (await store.storedBytes(user));
    const incoming = await store.receive(user);
    const refuseRemoved = (): void => this.#refuseRemoved(user);
    const written = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of chunks) {
        refuseRemoved();
        if (incoming.bytes + chunk.length > room)
          throw new PrefixdError(
            "training_quota_exceeded",
            `For training a user may have ${quota.bytes} bytes of files at most, and this file is larger than the ${Math.max(0, room)} that are left.`,
          );
        await incoming.write(chunk);
        yield chunk;
      }
    };
    try {
      await checkData(written());
      return incoming;
    } catch (error) {
      await incoming.discard();
      throw error;
    }
  }

  /** @throws PrefixdError training_quota_exceeded */
  async keep(user: string, filename: string, incoming: IncomingFile): Promise<TrainingFile> {
    const now = Date.now();
    const file: TrainingFile = {
      id: timedId("file", now),
      user,
      filename,
      bytes: incoming.bytes,
      createdAt: now,
    };
    this.#refuseRemoved(user);
    await this.#parts.store.putFile(file, incoming, this.#parts.quota);
    return file;
  }

  /** @throws PrefixdError training_file_not_found */
  async file(user: string, id: string, field?: string): Promise<TrainingFile> {
    const file = isTimedId(id) ? await this.#parts.store.getFile(user, id) : null;
    if (file === null) throw noSuchFile(field);
    return file;
  }

  listFiles(user: string, page: Page): Promise<TrainingFile[]> {
    return this.#parts.store.listFiles(user, page);
  }

  /**
   * Its content; the caller reads it to the end or destroys it. Destroyed when the user is removed.
   * @throws PrefixdError training_file_not_found, also while it is read
   */
  async content(file: TrainingFile): Promise<Readable> {
    const content = await this.#parts.store.contentOf(file);
    if (this.#parts.runner.isRemoved(file.user)) {
      content.destroy();
      throw noSuchFile();
    }
    this.#contents.set(content, file.user);
    return content.once("close", () => this.#contents.delete(content));
  }

  /** Jobs that have read it go on. @throws PrefixdError training_file_not_found */
  async deleteFile(user: string, id: string): Promise<void> {
    const { id: known } = await this.file(user, id);
    await this.#parts.store.deleteFile(user, known);
  }

  /** @throws PrefixdError training_file_not_found, invalid_prefix_id, training_quota_exceeded */
  async create(user: string, order: JobOrder): Promise<TrainingJob> {
    const { store, runner, quota, base } = this.#parts;
    const { name, suffix, settings, metadata, trainingFile, validationFile } = order;
    if (name !== null) checkName(name);
    await this.file(user, trainingFile, "training_file");
    if (validationFile !== null) await this.file(user, validationFile, "validation_file");
    const now = Date.now();
    const job: TrainingJob = {
      id: timedId("ftjob", now),
      user,
      name: name ?? nameFrom(suffix),
      base,
      trainingFile,
      validationFile,
      settings,
      metadata,
      status: "queued",
      createdAt: now,
      finishedAt: null,
      error: null,
      step: 0,
      steps: null,
      tokens: 0,
      attempts: 0,
    };
    this.#refuseRemoved(user);
    await store.createJob(job, quota, now);
    const message = `Created fine-tuning job: ${job.id}`;
    await store.addEvent(user, job.id, { createdAt: now, level: "info", message, data: null });
    runner.look();
    return job;
  }

  /** @throws PrefixdError training_job_not_found */
  async job(user: string, id: string): Promise<TrainingJob> {
    const job = isTimedId(id) ? await this.#parts.store.getJob(user, id) : null;
    if (job === null) throw noSuchJob();
    return job;
  }

  listJobs(user: string, page: Page): Promise<TrainingJob[]> {
    return this.#parts.store.listJobs(user, page);
  }

  /**
   * When it resolves, no replica trains the job or can register anything of it.
   * @throws PrefixdError training_job_not_found, training_job_ended
   */
  async cancel(user: string, id: string): Promise<TrainingJob> {
    const { store, runner, endEverywhere, sweep, onCancel } = this.#parts;
    const job = isTimedId(id) ? await store.cancel(user, id, Date.now()) : null;
    if (job === null) throw noSuchJob();
    onCancel();
    await endEverywhere(user, id);
    await sweep(job);
    await store.leaveFolder(user, id);
    const message = "The job was cancelled";
    await store.addEvent(user, id, { createdAt: Date.now(), level: "info", message, data: null });
    runner.look();
    return job;
  }

  /** @throws PrefixdError training_job_not_found */
  async events(user: string, id: string, page: Page): Promise<JobEvent[]> {
    const job = await this.job(user, id);
    return this.#parts.store.listEvents(user, job.id, page);
  }

  /** @throws PrefixdError training_job_not_found */
  async checkpoints(user: string, id: string, page: Page): Promise<JobCheckpoint[]> {
    const job = await this.job(user, id);
    return this.#parts.store.listCheckpoints(user, job.id, page);
  }

  /**
   * Ends the user's running job and downloads, and refuses new work, until `readmitUser`. Resolves when no process of
   * theirs is left.
   */
  endOfUser(user: string): Promise<void> {
    const ended = this.#parts.runner.endOfUser(user);
    for (const [content, owner] of this.#contents) if (owner === user) content.destroy();
    return ended;
  }

  /** Ends the job, if it runs on this replica. Resolves when no process of it is left. */
  endJob(user: string, id: string): Promise<void> {
    return this.#parts.runner.kill(user, id);
  }

  /** This replica cannot know any more what has been removed: what runs ends at once, and waits again. */
  lapse(): void {
    this.#parts.runner.lapse();
  }

  /** Lets the user's running job keep its state, and wait until they are resumed. */
  suspendUser(user: string): void {
    void this.#parts.runner.suspendUser(user);
  }

  /** A user with this id was created again. */
  readmitUser(user: string): void {
    this.#parts.runner.readmitUser(user);
  }

  #refuseRemoved(user: string): void {
    if (this.#parts.runner.isRemoved(user)) throw new PrefixdError("removed", "The user was removed.");
  }
}

function checkName(name: string): void {
  checkPrefixName(name);
  if (name.length > LONGEST_NAME)
    throw new PrefixdError(
      "invalid_prefix_id",
      `The name of a prefix that is trained has ${LONGEST_NAME} characters at most.`,
      { field: "prefix_id" },
    );
}

/**
 * As OpenAI names models: `ft-`, what names may have of the suffix, and 8 random hex digits. Letters lose their accents;
 * what else is between letters, digits, dots and underscores becomes one hyphen. Of a suffix with none of them nothing
 * is left.
 */
export function nameFrom(suffix: string | null): string {
  const words =
    (suffix ?? "")
      .normalize("NFD")
      .replaceAll(/\p{M}/gu, "")
      .match(/[A-Za-z0-9._]+/g) ?? [];
  return ["ft", ...words, randomBytes(4).toString("hex")].join("-");
}
