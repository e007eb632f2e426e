/**
 * Builds a checkpoint's graphs once into a cache folder: `<fingerprint>-<arithmetic>-v<version>/{model.onnx,
 * device.onnx, paged.onnx, weights.bin}`, in int8 without paged.onnx. Machines may share it: each takes the arithmetic
 * that it computes exactly.
 */
import { randomUUID } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Device } from "../runtime/device.ts";
import { DEVICES } from "../runtime/devices.ts";
import { isStreamed } from "../runtime/stream-device.ts";
import type { Checkpoint } from "./checkpoint.ts";
import { toFloat16 } from "../formats/float16.ts";
import { candidatesOf, GRAPH_VERSION, gpt2Graph, type GraphKind } from "./gpt2-graph.ts";
import {
  graphWeights,
  isInteger,
  weightRanges,
  ZERO_POINT,
  type Arithmetic,
  type ChannelFactor,
  type GraphWeight,
  type Precision,
} from "./graph-weights.ts";
import { exactIntegers } from "./integer-kernels.ts";
import { DataType, type ExternalRange } from "./onnx-writer.ts";
import { channelScales, writeIntegers } from "./quantize.ts";

/** The weights, beside each of a checkpoint's graphs. */
export const DATA_FILE = "weights.bin";
const FILES: Readonly<Record<GraphKind, string>> = { host: "model.onnx", device: "device.onnx", paged: "paged.onnx" };
const CHUNK_BYTES = 4 << 20;
const ABANDONED_MS = 6 * 3_600_000;

/**
 * Returns the path of the graph for this checkpoint and device, and builds it if it is missing. Weights are streamed,
 * so memory use does not depend on the model's size. The folder appears by a rename: complete or not at all.
 * @throws PrecisionError where int8 is not exact, ModelLoadError from the checkpoint; file system errors; OrtError
 */
export async function ensureGraph(
  checkpoint: Checkpoint,
  cacheDir: string,
  precision: Precision,
  device: Device = DEVICES.cpu,
): Promise<string> {
  return ensureArithmetic(checkpoint, cacheDir, precision === "int8" ? await exactIntegers() : precision, device);
}

/** The same for a given arithmetic, whether or not this machine computes it exactly. */
export async function ensureArithmetic(
  checkpoint: Checkpoint,
  cacheDir: string,
  arithmetic: Arithmetic,
  device: Device = DEVICES.cpu,
): Promise<string> {
  const folder = join(cacheDir, `${checkpoint.fingerprint.slice(0, 32)}-${arithmetic}-v${GRAPH_VERSION}`);
  const path = join(folder, FILES[device.hostMemory ? "host" : isStreamed(device) ? "paged" : "device"]);
  const kinds: readonly GraphKind[] = isInteger(arithmetic) ? ["host", "device"] : ["host", "device", "paged"];
  if (await exist(path)) return path;
  const temporary = `${folder}.${randomUUID()}.tmp`;
  await mkdir(temporary, { recursive: true });
  await removeAbandoned(folder);
  try {
    const weights = await writeWeights(checkpoint, arithmetic, join(temporary, DATA_FILE));
    const candidates = candidatesOf(checkpoint.config);
    for (const kind of kinds) {
      await writeModel(
        join(temporary, FILES[kind]),
        gpt2Graph(checkpoint.config, { arithmetic, candidates, weights, dataFile: DATA_FILE, kind }),
      );
    }
    await publish(
      temporary,
      folder,
      kinds.map((kind) => join(folder, FILES[kind])),
    );
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
  return path;
}

async function writeModel(path: string, model: Uint8Array): Promise<void> {
  const file = await open(path, "w");
  try {
    await file.writeFile(model);
    await file.sync();
  } finally {
    await file.close();
  }
}

type Write = (bytes: ArrayBufferView, offset: number) => Promise<void>;

async function writeWeights(
  checkpoint: Checkpoint,
  arithmetic: Arithmetic,
  path: string,
): Promise<ReadonlyMap<string, ExternalRange>> {
  const { ranges, size } = weightRanges(checkpoint.config, arithmetic);
  const file = await open(path, "w");
  const write: Write = async (bytes, offset) => {
    await file.write(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0, bytes.byteLength, offset);
  };
  try {
    const scales = new Map<string, Float32Array>();
    for (const [name, weight] of graphWeights(checkpoint.config, arithmetic)) {
      const { offset } = ranges.get(name)!;
      await writeWeight(checkpoint, weight, scales, (bytes, at) => write(bytes, offset + at));
    }
    // Unwritten parts of the file read as zeros.
    await file.truncate(size);
    await file.sync();
  } finally {
    await file.close();
  }
  return ranges;
}

/** Writes one weight. `scales` keeps the scales of sources quantised so far. */
async function writeWeight(
  checkpoint: Checkpoint,
  weight: GraphWeight,
  scales: Map<string, Float32Array>,
  write: Write,
): Promise<void> {
  const { source, form, channelAxis, dims, factor } = weight;
  const tensor = checkpoint.tensor(source);
  switch (form) {
    case "values": {
      let written = 0;
      let first = 0;
      for await (const chunk of tensor.chunks(CHUNK_BYTES)) {
        if (factor !== undefined) multiplyChannels(chunk, first, dims.at(-1)!, factor);
        first += chunk.length;
        const values = weight.type === DataType.float16 ? toFloat16(chunk) : chunk;
        await write(values, written);
        written += values.byteLength;
      }
      return;
    }
    case "scales": {
      const made = await channelScales(tensor, channelAxis);
      scales.set(source, made);
      return write(
        factor === undefined
          ? made
          : made.map((scale, channel) => (channel < factor.channels ? scale * factor.by : scale)),
        0,
      );
    }
    case "integers":
      return writeIntegers(
        tensor,
        channelAxis,
        scales.get(source)!,
        weight.type === DataType.uint8 ? ZERO_POINT : 0,
        write,
      );
  }
}

/** `values` are elements `first`, `first + 1`, ... of a tensor `[..., channels]`. */
function multiplyChannels(values: Float32Array, first: number, channels: number, factor: ChannelFactor): void {
  for (let index = 0; index < values.length; index++) {
    if ((first + index) % channels < factor.channels) values[index]! *= factor.by;
  }
}

/** If another process has built the same graph meanwhile, its copy stays. A partly deleted folder is replaced. */
async function publish(temporary: string, folder: string, files: readonly string[]): Promise<void> {
  try {
    await rename(temporary, folder);
  } catch {
    if (await exist(...files)) return;
    await rm(folder, { recursive: true, force: true });
    await rename(temporary, folder);
  }
}

/** Removes leftovers of killed builds. A build still running has a younger folder. */
async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(dirname(folder))) {
    if (!name.startsWith(`${basename(folder)}.`) || !name.endsWith(".tmp")) continue;
    const path = join(dirname(folder), name);
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Date.now() }));
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(path, { recursive: true, force: true });
  }
}

function exist(...paths: readonly string[]): Promise<boolean> {
  return Promise.all(paths.map((path) => access(path, constants.R_OK))).then(
    () => true,
    () => false,
  );
}
