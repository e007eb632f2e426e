import type { BigIntStats } from "node:fs";
import { type FileHandle, open, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";
import { ModelLoadError } from "../errors.ts";
import { readSafetensorsHeader, type TensorInfo } from "../formats/safetensors.ts";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const PICKLES = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/** A safetensors file held open for reading. */
export interface TensorFile {
  readonly name: string;
  /** Resolved path: files of the Hugging Face cache are symbolic links to blobs. */
  readonly path: string;
  readonly handle: FileHandle;
  readonly stats: BigIntStats;
}

/** A tensor's bytes: `[start, end)` of the file. */
export interface StoredTensor extends TensorInfo {
  readonly file: TensorFile;
}

export interface TensorFiles {
  /** By canonical name: without the leading `transformer.`. */
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  close(): Promise<void>;
}

/** Opens model.safetensors, or the shards that model.safetensors.index.json lists, and reads their headers. */
export async function openTensorFiles(dir: string): Promise<TensorFiles> {
  const files: TensorFile[] = [];
  const close = async (): Promise<void> => {
    await Promise.all(files.map((file) => file.handle.close()));
  };
  try {
    const weightMap = await readWeightMap(dir);
    const tensors = new Map<string, StoredTensor>();
    for (const name of weightMap === null ? [SINGLE] : new Set(weightMap.values())) {
      const file = await openFile(dir, name);
      files.push(file);
      for (const [stored, tensor] of await readTensors(file)) {
        if (weightMap !== null && weightMap.get(stored) !== name) continue;
        const canonical = stored.replace(/^transformer\./, "");
        if (tensors.has(canonical)) {
          throw new ModelLoadError(
            "model_invalid",
            `tensor "${canonical}" is stored twice, with and without "transformer."`,
          );
        }
        tensors.set(canonical, tensor);
        weightMap?.delete(stored);
      }
    }
    for (const [name, file] of weightMap ?? []) {
      throw new ModelLoadError("model_invalid", `tensor "${name}" is not in ${file}, where ${INDEX} says it is`);
    }
    return { tensors, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Reads a JSON file of the checkpoint; undefined if there is none. */
export async function readJson(dir: string, name: string): Promise<unknown> {
  let text: string;
  try {
    text = await readFile(join(dir, name), "utf8");
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw new ModelLoadError("model_invalid", `cannot read ${join(dir, name)}: ${message(error)}`, { cause: error });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new ModelLoadError("model_invalid", `${join(dir, name)} is not valid JSON: ${message(error)}`, {
      cause: error,
    });
  }
}

/** The index's tensor -> file map; null if the checkpoint is one file. */
async function readWeightMap(dir: string): Promise<Map<string, string> | null> {
  if (await exists(join(dir, SINGLE))) return null;
  const index = await readJson(dir, INDEX);
  if (index === undefined) throw await noWeights(dir);
  const map = typeof index === "object" && index !== null && "weight_map" in index ? index.weight_map : undefined;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw new ModelLoadError("model_invalid", `${INDEX} has no weight_map object`);
  }
  return new Map(
    Object.entries(map).map(([tensor, file]: [string, unknown]) => {
      // Plain file names only, so that an index cannot point outside the folder.
      if (typeof file !== "string" || !/^[\w][\w.-]*\.safetensors$/.test(file)) {
        throw new ModelLoadError(
          "model_invalid",
          `${INDEX}: ${JSON.stringify(file)} is not the name of a safetensors file beside it`,
        );
      }
      return [tensor, file];
    }),
  );
}

async function noWeights(dir: string): Promise<ModelLoadError> {
  for (const pickle of PICKLES) {
    if (!(await exists(join(dir, pickle)))) continue;
    return new ModelLoadError(
      "model_unsupported",
      `${dir} only has ${pickle}: a pickle can run code and is never read. Convert it once in Python: ` +
        `GPT2LMHeadModel.from_pretrained("${dir}").save_pretrained("NEW_FOLDER", safe_serialization=True)`,
    );
  }
  return new ModelLoadError("model_not_found", `${dir} has neither ${SINGLE} nor ${INDEX}`);
}

async function openFile(dir: string, name: string): Promise<TensorFile> {
  let handle: FileHandle | undefined;
  try {
    const path = await realpath(join(dir, name));
    handle = await open(path, "r");
    const stats = await handle.stat({ bigint: true });
    if (!stats.isFile()) throw new Error("not a file");
    return { name, path, handle, stats };
  } catch (error) {
    await handle?.close();
    throw new ModelLoadError(
      isMissing(error) ? "model_not_found" : "model_invalid",
      `cannot open ${join(dir, name)}: ${message(error)}`,
      {
        cause: error,
      },
    );
  }
}

async function readTensors(file: TensorFile): Promise<Map<string, StoredTensor>> {
  try {
    const { tensors } = await readSafetensorsHeader(file.handle);
    return new Map([...tensors].map(([name, tensor]) => [name, { file, ...tensor }]));
  } catch (error) {
    throw new ModelLoadError("model_invalid", `${file.path}: ${message(error)}`, { cause: error });
  }
}

/** Reads `length` bytes from `offset`, into `buffer` if given. */
export async function readExactly(
  file: TensorFile,
  offset: number,
  length: number,
  buffer = new Uint8Array(length),
): Promise<Uint8Array> {
  let done = 0;
  while (done < length) {
    const { bytesRead } = await file.handle.read(buffer, done, length - done, offset + done);
    if (bytesRead === 0) throw new ModelLoadError("model_invalid", `${file.path} ends before byte ${offset + length}`);
    done += bytesRead;
  }
  return buffer.subarray(0, length);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

function isMissing(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOENT" || error.code === "ENOTDIR");
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
