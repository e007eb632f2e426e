import { basename } from "node:path";
import { counted } from "../counted.ts";
import { ConfigError } from "../errors.ts";
import type { PrefixDocument } from "../http/prefixes/schema.ts";
import { oneLine } from "../one-line.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, readArguments, prefixPath, userKey } from "./arguments.ts";
import { CommandError } from "./command-error.ts";
import { checkFolderWritable } from "./files.ts";
import { callJson, send } from "./http-client.ts";
import { checkFolder, isFileName, writeFolder } from "./whole-folder.ts";

const USAGE = `Usage: prefixd pull ID [DIR] [--force]

Downloads the uploaded files, which prefixd push accepts again: an adapter's two files, which PEFT accepts too, or a hard prompt's
prompt.json. DIR defaults to the prefix's name. Writes all files or none.

  --force                overwrite existing files
${CLIENT_USAGE}`;

/** Attempts at a download before giving up, when the prefix keeps being replaced. */
const TRIES = 5;

/** `prefixd pull`: downloads the files of one version of a prefix. */
export async function pull(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("pull", args, { ...CLIENT_OPTIONS, force: { type: "boolean" } }, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  const [id = "", dir = basename(id)] = positionals;
  if (id === "" || dir === "" || positionals.length > 2) throw new ConfigError("pull takes an id and a folder", USAGE);
  checkFolderWritable("pull", dir);
  const { answer, prefix, files } = await download(values.url, userKey(values["key-file"]), id, (names) =>
    checkFolder(dir, names, values.force === true),
  );
  writeFolder(dir, files, values.force === true);
  console.log(
    values.json === true
      ? answer
      : oneLine(
          `pulled ${prefix.id} (${prefix.kind}, ${counted(prefix.virtual_tokens, "virtual token")}, digest ${prefix.digest}) into ${dir}`,
        ),
  );
}

interface Download {
  /** The server's JSON for the prefix. */
  readonly answer: string;
  readonly prefix: PrefixDocument;
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** @param check called with the files' names before they are requested */
async function download(
  url: string | undefined,
  key: string | undefined,
  id: string,
  check: (names: readonly string[]) => void,
): Promise<Download> {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const { text: answer, value: prefix } = await callJson<PrefixDocument>(url, prefixPath(id), {}, key);
    const names = Object.keys(prefix.files);
    const strange = names.find((name) => !isFileName(name));
    if (strange !== undefined)
      throw new CommandError(
        `the server lists a file named ${JSON.stringify(strange)}, which is not a plain file name`,
      );
    check(names);
    const files = new Map<string, Uint8Array>();
    for (const name of names) {
      const { body, headers } = await send(url, prefixPath(id, "adapter", name), {}, key);
      // The prefix has been replaced: start over.
      if (headers.get("etag") !== `"${prefix.digest}"` || body.length !== prefix.files[name]) break;
      files.set(name, body);
    }
    if (files.size === names.length) return { answer, prefix, files };
  }
  throw new CommandError(`${id} keeps being replaced; try again later`);
}
