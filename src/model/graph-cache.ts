/** Builds a checkpoint's graph once into a cache folder: `<fingerprint>-<precision>-v<version>/{model.onnx, weights.bin}`. */
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Checkpoint } from "./checkpoint.ts";
import { toFloat16 } from "./float16.ts";
import { CANDIDATES, GRAPH_VERSION, gpt2Graph, type FloatType } from "./gpt2-graph.ts";
import { DataType, type ExternalRange } from "./onnx-writer.ts";

const DATA_FILE = "weights.bin";
/** ORT maps external data into memory: page alignment spares it a copy. */
const ALIGNMENT = 4096;
const CHUNK_BYTES = 4 << 20;
const ABANDONED_MS = 6 * 3_600_000;

/** fp32: what HF PEFT computes on a CPU. fp16: half the memory and its traffic, on devices with such arithmetic. */
export type Precision = "fp32" | "fp16";
export const FLOAT_TYPES: Readonly<Record<Precision, FloatType>> = { fp32: DataType.float, fp16: DataType.float16 };

/**
 * Path of the graph for this checkpoint, built when it is not there yet. Weights are streamed in chunks, so that the memory needed
 * does not depend on the model's size. Whole or absent: the folder appears by a rename.
 * @throws ModelLoadError from the checkpoint; the file system's errors.
 */
export async function ensureGraph(checkpoint: Checkpoint, cacheDir: string, precision: Precision): Promise<string> {
  const folder = join(cacheDir, `${checkpoint.fingerprint.slice(0, 32)}-${precision}-v${GRAPH_VERSION}`);
  if (await exists(join(folder, "model.onnx"))) return join(folder, "model.onnx");
  const temporary = `${folder}.${randomUUID()}.tmp`;
  await mkdir(temporary, { recursive: true });
  await removeAbandoned(folder);
  try {
    const weights = await writeWeights(checkpoint, join(temporary, DATA_FILE), FLOAT_TYPES[precision]);
    const candidates = Math.min(CANDIDATES, checkpoint.config.vocabSize);
    const model = gpt2Graph(checkpoint.config, { type: FLOAT_TYPES[precision], candidates, weights, dataFile: DATA_FILE });
    const file = await open(join(temporary, "model.onnx"), "w");
    try {
      await file.writeFile(model);
      await file.sync();
    } finally {
      await file.close();
    }
    await publish(temporary, folder);
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return join(folder, "model.onnx");
}

async function writeWeights(checkpoint: Checkpoint, path: string, type: FloatType): Promise<Map<string, ExternalRange>> {
  const ranges = new Map<string, ExternalRange>();
  const file = await open(path, "w");
  try {
    let offset = 0;
    for (const name of checkpoint.names) {
      offset = Math.ceil(offset / ALIGNMENT) * ALIGNMENT;
      const start = offset;
      for await (const chunk of checkpoint.tensor(name).chunks(CHUNK_BYTES)) {
        const data = type === DataType.float ? chunk : toFloat16(chunk);
        await file.write(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 0, data.byteLength, offset);
        offset += data.byteLength;
      }
      ranges.set(name, { offset: start, length: offset - start });
    }
    await file.sync();
  } finally {
    await file.close();
  }
  return ranges;
}

/** Another process may have built the same graph meanwhile: the first one stays. A folder half deleted makes room. */
async function publish(temporary: string, folder: string): Promise<void> {
  try {
    await rename(temporary, folder);
  } catch {
    if (await exists(join(folder, "model.onnx"))) return;
    await rm(folder, { recursive: true, force: true });
    await rename(temporary, folder);
  }
}

/** What builds of this graph left behind that were killed. One that still runs is younger. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(dirname(folder))) {
    if (!name.startsWith(`${basename(folder)}.`) || !name.endsWith(".tmp")) continue;
    const path = join(dirname(folder), name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }));
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(path, { recursive: true, force: true });
  }
}

function exists(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(() => true, () => false);
}
