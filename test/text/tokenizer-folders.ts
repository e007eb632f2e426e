import { copyFile, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";

type Json = Record<string, unknown>;

/** A folder that is made from the demo's tokenizer by small edits (tools/reference/tokenizer_folders.py makes the same). */
export interface FolderSpec {
  readonly layout: "old" | "new";
  /** Files beside, by name. */
  readonly files?: Readonly<Record<string, object>>;
  /** Of tokenizer.json: where, and what is there instead. */
  readonly patch?: readonly (readonly [readonly string[], unknown])[];
  /** Tokens that vocab.json lacks. */
  readonly drop?: readonly string[];
}

/** Writes it into `dir`, which is there and empty. */
export async function makeTokenizerFolder(
  dir: string,
  { layout, files = {}, patch = [], drop = [] }: FolderSpec,
): Promise<string> {
  if (layout === "new") {
    const document = JSON.parse(await readFile("models/demo/tokenizer.json", "utf8")) as Json;
    for (const [path, value] of patch) {
      const place = path.slice(0, -1).reduce((at, key) => at[key] as Json, document);
      place[path.at(-1) as string] = value;
    }
    await writeFile(join(dir, "tokenizer.json"), JSON.stringify(document));
  } else {
    const vocab = JSON.parse(await readFile("models/demo/vocab.json", "utf8")) as Json;
    for (const token of drop) delete vocab[token];
    await writeFile(join(dir, "vocab.json"), JSON.stringify(vocab));
    await copyFile("models/demo/merges.txt", join(dir, "merges.txt"));
  }
  for (const [name, document] of Object.entries(files)) await writeFile(join(dir, name), JSON.stringify(document));
  return dir;
}
