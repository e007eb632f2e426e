import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { basename, join, resolve } from "node:path";
import { counted } from "../counted.ts";
import { ConfigError } from "../errors.ts";
import { parseHubId, type HubId } from "../formats/hub-id.ts";
import type { PrefixDocument } from "../http/prefixes/schema.ts";
import { oneLine } from "../one-line.ts";
import type { BaseEmbeddings, EmbeddingDigests } from "../prefixes/adapter-weights.ts";
import { readAdapterFolder } from "../prefixes/folder.ts";
import { bodyOfPromptFile, PROMPT_FILE } from "../prefixes/hard-prompt.ts";
import { CONFIG_FILE, WEIGHTS_FILE } from "../prefixes/peft.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, onlyOperand, readArguments, prefixPath, userKey } from "./arguments.ts";
import { CommandError } from "./command-error.ts";
import { checkFolderReadable } from "./files.ts";
import { callJson } from "./http-client.ts";

const USAGE = `Usage: prefixd push DIR|hf:OWNER/NAME[@REVISION] [--id NAME]

Registers the adapter that PEFT's save_pretrained wrote to DIR, or the hard prompt of its prompt.json ({"text": ...} or
{"token_ids": [...]}), or replaces the prefix with the same name. hf: downloads an adapter from the Hugging Face hub first, with the token
in HF_TOKEN if the repository is private.

  --id NAME              the prefix's name (default: the folder's or the repository's)
  --subfolder DIR        the adapter's folder in the hub's repository
${CLIENT_USAGE}`;

const HUB = "hf:";

/** `prefixd push`: registers a folder's prefix with a running server, by default under the folder's name. */
export async function push(args: readonly string[]): Promise<void> {
  const options = { ...CLIENT_OPTIONS, id: { type: "string" }, subfolder: { type: "string" } } as const;
  const { values, positionals } = readArguments("push", args, options, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  const operand = onlyOperand("push", "folder", positionals, USAGE);
  const { subfolder } = values;
  const hub = operand.startsWith(HUB) ? hubIdOf(operand) : null;
  if (hub === null && subfolder !== undefined)
    throw new ConfigError(`push ${operand}: --subfolder is for a repository on the hub, hf:OWNER/NAME`, USAGE);
  const id = values.id ?? basename(hub === null ? resolve(operand) : (subfolder ?? hub.name));
  if (hub === null) checkFolderReadable("push", operand);
  const dir = hub === null ? operand : await fromHub(hub, subfolder ?? null);
  const { text, value } = await pushFolder(dir, id, values.url, userKey(values["key-file"]));
  console.log(values.json === true ? text : registered(value));
}

/** Throws ConfigError. */
function hubIdOf(operand: string): HubId {
  const id = parseHubId(operand.slice(HUB.length));
  if (id === null) throw new ConfigError(`push ${operand}: expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION`, USAGE);
  return id;
}

/** The folder of an adapter that is on the hub. Throws ConfigError, ModelLoadError. */
async function fromHub(id: HubId, subfolder: string | null): Promise<string> {
  if (subfolder !== null && !/^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/.test(subfolder))
    throw new ConfigError(`push --subfolder ${subfolder}: expected a folder of the repository, such as a/b`, USAGE);
  // Loaded on demand: other pushes need nothing of the hub.
  const { resolveAdapter } = await import("../model/hub.ts");
  const cacheDir = join(process.env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "prefixd");
  const onFile = (name: string, bytes: number): void =>
    console.error(oneLine(`downloading ${name} (${counted(bytes, "byte")})`));
  return resolveAdapter(id, { cacheDir, subfolder, onFile });
}

/** The line that says what was registered. */
export const registered = ({ id, kind, virtual_tokens: length, digest }: PrefixDocument): string =>
  oneLine(`registered ${id} (${kind}, ${counted(length, "virtual token")}, digest ${digest})`);

/**
 * Registers a folder's adapter or hard prompt; the server's warnings go to stderr. Throws CommandError, ConfigError.
 */
export async function pushFolder(
  dir: string,
  id: string,
  url: string | undefined,
  key: string | undefined,
): Promise<{ text: string; value: PrefixDocument }> {
  const hasPrompt = existsSync(join(dir, PROMPT_FILE));
  if (hasPrompt && existsSync(join(dir, CONFIG_FILE)))
    throw new CommandError(`${dir} has both ${CONFIG_FILE} and ${PROMPT_FILE}: remove one of them`);
  const upload = hasPrompt ? await readPrompt(join(dir, PROMPT_FILE)) : await readAdapter(dir, url, key);
  const answer = await callJson<PrefixDocument>(url, prefixPath(id), { method: "PUT", ...upload }, key);
  for (const { detail } of answer.value.warnings) console.error(`prefixd: warning: ${oneLine(detail)}`);
  return answer;
}

type Upload = Required<Pick<RequestInit, "body">> & { readonly headers?: Record<string, string> };

async function readPrompt(path: string): Promise<Upload> {
  const body = bodyOfPromptFile(await readFile(path, "utf8"));
  if (body === null) throw new CommandError(`${path} has neither text nor token_ids`);
  return { headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

async function readAdapter(dir: string, url: string | undefined, key: string | undefined): Promise<Upload> {
  // Embeddings saved with the adapter may be hundreds of MB that the server already has: compare digests instead of
  // uploading.
  const embeddings: BaseEmbeddings = async (dtype) =>
    (await callJson<EmbeddingDigests>(url, `/model/embeddings?dtype=${dtype}`, {}, key)).value;
  const { config, weights } = await readAdapterFolder(dir, { limit: Infinity, embeddings });
  const body = new FormData();
  body.append("adapter_config", new Blob([new Uint8Array(config)], { type: "application/json" }), CONFIG_FILE);
  body.append("adapter_model", new Blob([new Uint8Array(weights)]), WEIGHTS_FILE);
  return { body };
}
