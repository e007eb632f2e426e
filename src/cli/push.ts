import { basename, resolve } from "node:path";
import { ConfigError } from "../config.ts";
import type { PrefixDocument } from "../http/schemas/prefixes.ts";
import { readAdapterFolder } from "../prefixes/folder.ts";
import { readArguments } from "./arguments.ts";
import { call } from "./http-client.ts";

const USAGE = "Usage: prefixd push DIR [--id NAME] [--url http://127.0.0.1:8080]; a key comes from PREFIXD_KEY\n";

const OPTIONS = { id: { type: "string" }, url: { type: "string" }, help: { type: "boolean", short: "h" } } as const;

/** `prefixd push`: registers a PEFT folder with a running server, under the folder's name unless told otherwise. */
export async function push(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("push", args, OPTIONS);
  const [dir] = positionals;
  if (values.help === true) return void process.stdout.write(USAGE);
  if (dir === undefined || positionals.length > 1) throw new ConfigError(`push takes one folder\n${USAGE}`);
  const upload = await readAdapterFolder(dir);
  if (upload.kind !== "peft") throw new TypeError("a folder holds a PEFT adapter");
  const form = new FormData();
  form.append("config", new Blob([new Uint8Array(upload.config)], { type: "application/json" }), "adapter_config.json");
  form.append("weights", new Blob([new Uint8Array(upload.weights)]), "adapter_model.safetensors");
  const id = values.id ?? basename(resolve(dir));
  const answer = await call(values.url, `/prefixes/${encodeURIComponent(id)}`, { method: "PUT", body: form }, process.env["PREFIXD_KEY"] || undefined);
  console.log(answer);
  const { warnings = [] } = JSON.parse(answer) as Partial<PrefixDocument>;
  for (const { detail } of warnings) console.error(`prefixd: warning: ${detail}`);
}
