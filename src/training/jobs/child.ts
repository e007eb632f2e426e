/** The work of the process that trains a job; src/start/training-child.ts starts it. */
import { existsSync } from "node:fs";
import { mkdir, open, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { TrainingError } from "../../errors.ts";
import type { TrainModel } from "../../model/train-model.ts";
import { Job, type TrainRequest } from "../job.ts";
import { runTraining } from "../run.ts";
import { restoreState, saveState } from "../state.ts";
import type { Pacer } from "./pacer.ts";
import { checkpointFolder, RESULT, STATE, type ChildTask, type FromChild } from "./protocol.ts";
import type { JobError } from "./types.ts";
import { NO_ROOM } from "./work-folders.ts";

/** States kept besides those of evaluations, for a crash. */
const SAVES = 40;
/** Messages about steps. */
const REPORTS = 50;
/** Bad lines that are told of. */
const MOST_BAD_LINES = 20;

export interface Channel {
  readonly send: (message: FromChild) => void;
  readonly pacer: Pacer;
  /** Aborted by "stop". */
  readonly signal: AbortSignal;
}

/**
 * Trains, from the state in the job's folder if there is one. Ends with `done`, `stopped` or `failed`.
 * @throws what is no fault of the job's: it is tried again
 */
export async function runChild(
  runtime: Parameters<typeof TrainModel.open>[0],
  task: ChildTask,
  channel: Channel,
): Promise<void> {
  try {
    channel.send({ kind: (await trained(runtime, task, channel)) === "done" ? "done" : "stopped" });
  } catch (error) {
    const known = jobError(error, task.request);
    if (known === null) throw error;
    channel.send({ kind: "failed", error: known });
  }
}

async function trained(
  runtime: Parameters<typeof TrainModel.open>[0],
  { request, folder, base }: ChildTask,
  { send, pacer, signal }: Channel,
): Promise<"done" | "interrupted"> {
  const state = join(folder, STATE);
  const isNew = !existsSync(state);
  let badLines = 0;
  await using job = await Job.open(runtime, request, isNew, {
    onBadLine: (path, line, reason) => {
      if (++badLines <= MOST_BAD_LINES) send({ kind: "bad_line", line, reason, isHeld: path === request.evalData });
    },
  });
  const { training, origin, counts } = job;
  if (origin.fingerprint !== base)
    throw new TrainingError("model_changed", "The model's files are not those that the server has loaded.");
  if (!isNew) await restoreState(state, training, origin);
  const { steps } = training.options;
  send({ kind: "begun", step: training.progress.step, steps, examples: counts.train, held: counts.held });
  let [told, began] = [training.progress.tokens, performance.now()];
  const rest = async (): Promise<void> => {
    await pacer.rest(performance.now() - began, signal);
    began = performance.now();
  };
  const outcome = await runTraining(training, {
    signal,
    save: async () => {
      await saveState(state, training, origin);
      send({ kind: "saved" });
    },
    saveEvery: Math.ceil(steps / SAVES),
    onUpdate: async ({ step, loss }) => {
      if (step % Math.ceil(steps / REPORTS) === 0 || step === steps) {
        const { tokens } = training.progress;
        send({ kind: "progress", step, loss, tokens, spent: tokens - told });
        told = tokens;
      }
      await rest();
    },
    onEvaluation: async (evaluation) => {
      await writeWhole(join(folder, checkpointFolder(evaluation.step)), job.files());
      send({ kind: "checkpoint", evaluation });
      await rest();
    },
  });
  if (outcome === "done") await writeWhole(join(folder, RESULT), job.files());
  return outcome;
}

/** Files in a folder that appears with all of them, on disk. */
async function writeWhole(dir: string, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
  const temporary = `${dir}.tmp`;
  for (const old of [temporary, dir]) await rm(old, { recursive: true, force: true });
  await mkdir(temporary);
  for (const [name, content] of files) {
    const file = await open(join(temporary, name), "wx");
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
  }
  await rename(temporary, dir);
}

/** What the job's owner may know of an error; null: it says nothing to them. */
function jobError(error: unknown, { data, evalData }: TrainRequest): JobError | null {
  if (error instanceof TrainingError) {
    const { code, message } = error;
    const isHeld = evalData !== null && message.includes(evalData);
    const param = code === "data_invalid" ? (isHeld ? "validation_file" : "training_file") : null;
    // Paths are the server's business.
    const shown = (evalData === null ? message : message.replaceAll(evalData, "The validation file"))
      .replaceAll(data, "The training file")
      .replace(/\S*training\.state/, "The job's state");
    return { code, message: shown, param };
  }
  if (error instanceof Error && "code" in error && NO_ROOM.has(error.code))
    return { code: "store_full", message: "The server's disk is full.", param: null };
  return null;
}
