import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { readAdapterFolder } from "../../prefixes/folder.ts";
import { PROMPT_FILE } from "../../prefixes/hard-prompt.ts";
import type { PrefixUpload } from "../../prefixes/registry-types.ts";
import type { Triggers } from "../triggers/vocabulary.ts";

/** Reads what a training has written: an adapter, or a hard prompt. */
export async function readResult(dir: string): Promise<PrefixUpload> {
  const path = join(dir, PROMPT_FILE);
  if (!existsSync(path)) return readAdapterFolder(dir);
  const { text, token_ids } = JSON.parse(await readFile(path, "utf8")) as { text?: string; token_ids: number[] };
  return { kind: "hard", ids: Int32Array.from(token_ids), ...(text === undefined ? {} : { text }) };
}

/** null: an adapter. */
export const shownOf = (upload: PrefixUpload): Triggers | null =>
  upload.kind === "hard" ? { ids: [...upload.ids], text: upload.text ?? null } : null;
