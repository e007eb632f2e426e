import { createReadStream } from "node:fs";
import { lstat, readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { PrefixdError } from "../errors.ts";
import { fileTrouble } from "../file-trouble.ts";
import { readAdapterWeights, type WeightsOptions } from "./adapter-weights.ts";
import { isPrefixName, PREFIX_NAME_RULE } from "./name.ts";
import { CONFIG_FILE, PICKLES_ARE_NOT_READ, WEIGHTS_FILE } from "./peft.ts";
import type { PeftUpload } from "./registry-types.ts";

const PICKLED_WEIGHTS = "adapter_model.bin";

/**
 * Reads PEFT's two files from a folder written by `save_pretrained`. Throws `upload_incomplete`, which names the
 * folder, and what `readAdapterWeights` throws.
 */
export async function readAdapterFolder(
  dir: string,
  options: WeightsOptions = { limit: Infinity },
): Promise<PeftUpload> {
  try {
    const config = await readFile(join(dir, CONFIG_FILE));
    return {
      kind: "peft",
      config,
      weights: await readAdapterWeights(createReadStream(join(dir, WEIGHTS_FILE)), options),
    };
  } catch (error) {
    if (error instanceof PrefixdError) throw error;
    throw new PrefixdError("upload_incomplete", await whatIsMissing(dir), { cause: error });
  }
}

async function whatIsMissing(dir: string): Promise<string> {
  const names = await readdir(dir).catch(() => null);
  if (names === null) return `${dir} is not a folder that can be read.`;
  if (names.includes(WEIGHTS_FILE) && names.includes(CONFIG_FILE)) return `${dir} has files that cannot be read.`;
  if (!names.includes(WEIGHTS_FILE) && names.includes(PICKLED_WEIGHTS))
    return `${dir} has ${PICKLED_WEIGHTS} instead of ${WEIGHTS_FILE}: ${PICKLES_ARE_NOT_READ}`;
  return `${dir} has no readable ${names.includes(CONFIG_FILE) ? WEIGHTS_FILE : CONFIG_FILE}.`;
}

/** An entry of an adapters' folder that is not an adapter, and why; `level` is the log level for it. */
export interface LeftOut {
  readonly name: string;
  readonly reason: string;
  readonly level: "debug" | "info" | "warn";
}

/**
 * The sub-folders (or links to folders) that hold an adapter, sorted, and the other entries. Rejects if the folder
 * cannot be read.
 */
export async function adapterFolders(dir: string): Promise<{ names: string[]; leftOut: LeftOut[] }> {
  const names: string[] = [];
  const leftOut: LeftOut[] = [];
  for (const name of (await readdir(dir)).sort()) {
    const why = await whyNoAdapter(dir, name);
    if (why === null) names.push(name);
    else leftOut.push({ name, ...why });
  }
  return { names, leftOut };
}

async function whyNoAdapter(dir: string, name: string): Promise<Omit<LeftOut, "name"> | null> {
  if (name.startsWith(".")) return { level: "debug", reason: "it is hidden" };
  try {
    const isFolder = (await stat(join(dir, name))).isDirectory();
    if (!isFolder && name === CONFIG_FILE)
      return { level: "warn", reason: "this folder is itself an adapter's; the folder that it lies in is wanted" };
    if (!isFolder) return { level: "info", reason: "it is not a folder" };
    await lstat(join(dir, name, CONFIG_FILE));
  } catch (error) {
    return { level: "warn", reason: await whyUnreadable(join(dir, name), error) };
  }
  return isPrefixName(name) ? null : { level: "warn", reason: `its name cannot be a prefix's: ${PREFIX_NAME_RULE}` };
}

async function whyUnreadable(path: string, error: unknown): Promise<string> {
  const isLink = (await lstat(path)).isSymbolicLink();
  const code = codeOf(error);
  if (code === "ELOOP") return "it is a symbolic link that leads back to itself";
  if (code !== "ENOENT") return fileTrouble(error);
  const exists =
    !isLink ||
    (await stat(path).then(
      () => true,
      () => false,
    ));
  return exists ? `it has no ${CONFIG_FILE}` : "it is a symbolic link to nothing";
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "error";
}
