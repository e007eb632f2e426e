import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { PrefixdError } from "../errors.ts";
import { isPrefixName } from "./name.ts";
import type { PrefixUpload } from "./registry-types.ts";

/** PEFT's two files of a folder as `save_pretrained` writes it. Throws `upload_incomplete`, naming the folder. */
export async function readAdapterFolder(dir: string): Promise<PrefixUpload> {
  const read = (file: string): Promise<Uint8Array> =>
    readFile(join(dir, file)).catch((error: unknown) => {
      throw new PrefixdError("upload_incomplete", `${dir} has no readable ${file}.`, { cause: error });
    });
  return { kind: "peft", config: await read("adapter_config.json"), weights: await read("adapter_model.safetensors") };
}

/** Names of the sub-folders that hold an adapter, in order. Rejects when the folder cannot be read. */
export async function adapterFolders(dir: string): Promise<string[]> {
  const entries = await readdir(dir, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory() && isPrefixName(entry.name)).map((entry) => entry.name).sort();
}
