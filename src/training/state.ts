/**
 * A training's state in one file: what is learned, the optimizer's means, the best values so far, and what they belong to.
 */
import { open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { TrainingError } from "../errors.ts";
import { decodeFloatsInto, parseSafetensorsHeader, tensorFile, type TensorData } from "../formats/safetensors.ts";
import type { StateArray } from "./learner.ts";
import type { TrainingOptions } from "./options.ts";
import type { Progress, Training } from "./training.ts";

const VERSION = 1;
const METADATA = "prefixd_training";
const HEADER_LIMITS = { maxHeaderBytes: 64 << 20 };

/** What a state belongs to: it can only go on with the same. */
export interface StateOrigin {
  /** Of the base model. */
  readonly fingerprint: string;
  /** Of the training and the held examples. */
  readonly data: string;
}

export interface StateHead {
  readonly version: typeof VERSION;
  readonly origin: StateOrigin;
  readonly options: TrainingOptions;
  readonly progress: Progress;
  /** Whatever the one who started the training wants to read again. */
  readonly note: Readonly<Record<string, unknown>>;
}

/** Replaces the file: after a crash it is the old one or the new one, whole. */
export async function saveState(
  path: string,
  training: Training,
  origin: StateOrigin,
  note: StateHead["note"] = {},
): Promise<void> {
  const { options, progress } = training;
  const head: StateHead = { version: VERSION, origin, options, progress, note };
  const tensors = new Map<string, TensorData>();
  for (const [name, { shape, values }] of arraysOf(training))
    tensors.set(name, {
      dtype: "F32",
      shape,
      data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    });
  await replaceFile(path, tensorFile(tensors, new Map([[METADATA, JSON.stringify(head)]])));
}

/** Only what describes the state. @throws TrainingError `state_mismatch`, the system's errors */
export async function readStateHead(path: string): Promise<StateHead> {
  return headOf(path, await readFile(path));
}

/**
 * Puts a training into the state of a file.
 * @throws TrainingError `state_mismatch` if it belongs to another model, other data or other options
 */
export async function restoreState(path: string, training: Training, origin: StateOrigin): Promise<void> {
  const bytes = await readFile(path);
  const head = headOf(path, bytes);
  const mismatch = (what: string): TrainingError =>
    new TrainingError("state_mismatch", `${path} belongs to ${what}: it cannot be resumed here.`);
  if (head.origin.fingerprint !== origin.fingerprint) throw mismatch("another base model");
  if (head.origin.data !== origin.data) throw mismatch("other training data");
  for (const [name, value] of Object.entries(training.options))
    if (head.options[name as keyof TrainingOptions] !== value) throw mismatch(`a training with another ${name}`);
  const { tensors } = parseSafetensorsHeader(bytes, bytes.length, HEADER_LIMITS);
  for (const [name, { values }] of arraysOf(training)) {
    const tensor = tensors.get(name);
    if (tensor === undefined || tensor.end - tensor.start !== values.byteLength)
      throw mismatch("another parametrisation");
    decodeFloatsInto("F32", bytes.subarray(tensor.start, tensor.end), values, 0);
  }
  training.progress = head.progress;
}

function headOf(path: string, bytes: Uint8Array): StateHead {
  try {
    const { metadata } = parseSafetensorsHeader(bytes, bytes.length, HEADER_LIMITS);
    const head = JSON.parse(metadata.get(METADATA) ?? "{}") as StateHead;
    if (head.version === VERSION) return head;
  } catch (cause) {
    throw new TrainingError("state_mismatch", `${path} is damaged or not a training state.`, { cause });
  }
  throw new TrainingError("state_mismatch", `${path} is not a training state of this version.`);
}

const arraysOf = ({ learner, best }: Training): ReadonlyMap<string, StateArray> =>
  new Map([...learner.arrays, ["best", { shape: [best.length], values: best }]]);

async function replaceFile(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    await withFile(temporary, "w", async (file) => {
      await file.writeFile(bytes);
      await file.sync();
    });
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  // The rename itself must reach the disk; Windows cannot open folders.
  if (process.platform !== "win32") await withFile(dirname(path), "r", (folder) => folder.sync());
}

async function withFile(
  path: string,
  mode: "r" | "w",
  use: (file: Awaited<ReturnType<typeof open>>) => Promise<void>,
): Promise<void> {
  const file = await open(path, mode);
  try {
    await use(file);
  } finally {
    await file.close();
  }
}
