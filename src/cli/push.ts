import { basename, resolve } from "node:path";
import type { PrefixDocument } from "../http/prefixes/schema.ts";
import { oneLine } from "../one-line.ts";
import type { BaseEmbeddings, EmbeddingDigests } from "../prefixes/adapter-weights.ts";
import { readAdapterFolder } from "../prefixes/folder.ts";
import { CONFIG_FILE, WEIGHTS_FILE } from "../prefixes/peft.ts";
import { CLIENT_OPTIONS, CLIENT_USAGE, onlyOperand, readArguments, prefixPath, userKey } from "./arguments.ts";
import { callJson } from "./http-client.ts";

const USAGE = `Usage: prefixd push DIR [--id NAME]

Registers the adapter that PEFT's save_pretrained wrote to DIR, or replaces the one with the same name.

  --id NAME              the prefix's name (default: the folder's)
${CLIENT_USAGE}`;

/** `prefixd push`: registers a PEFT folder with a running server, by default under the folder's name. */
export async function push(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("push", args, { ...CLIENT_OPTIONS, id: { type: "string" } }, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  const dir = onlyOperand("push", "folder", positionals, USAGE);
  // Embeddings saved with the adapter may be hundreds of MB that the server already has: compare digests instead of
  // uploading.
  const embeddings: BaseEmbeddings = async (dtype) =>
    (await callJson<EmbeddingDigests>(values.url, `/model/embeddings?dtype=${dtype}`, {}, userKey(values["key-file"])))
      .value;
  const upload = await readAdapterFolder(dir, { limit: Infinity, embeddings });
  const form = new FormData();
  form.append("adapter_config", new Blob([new Uint8Array(upload.config)], { type: "application/json" }), CONFIG_FILE);
  form.append("adapter_model", new Blob([new Uint8Array(upload.weights)]), WEIGHTS_FILE);
  const id = values.id ?? basename(resolve(dir));
  const { text: answer, value: prefix } = await callJson<PrefixDocument>(
    values.url,
    prefixPath(id),
    { method: "PUT", body: form },
    userKey(values["key-file"]),
  );
  console.log(
    values.json === true
      ? answer
      : oneLine(
          `registered ${prefix.id} (${prefix.kind}, ${prefix.virtual_tokens} virtual tokens, digest ${prefix.digest})`,
        ),
  );
  for (const { detail } of prefix.warnings) console.error(`prefixd: warning: ${oneLine(detail)}`);
}
