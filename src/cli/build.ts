import { join } from "node:path";
import { parseConfig } from "../config.ts";
import { counted } from "../counted.ts";
import { openCheckpoint } from "../model/checkpoint.ts";
import { ensureGraph } from "../model/graph-cache.ts";
import { resolveModel } from "../model/hub.ts";
import { checkCache, checkSettings } from "./files.ts";

/** `prefixd build`: does the first start's preparation without serving; takes `serve`'s flags. */
export async function build(args: readonly string[]): Promise<void> {
  const config = parseConfig(args, process.env);
  if (config === "help")
    return void process.stdout.write(
      "Usage: prefixd build [--model DIR|ORG/NAME] [--cache-dir DIR] [--precision fp32|int8]\n",
    );
  checkSettings(config);
  checkCache(config);
  const { cacheDir, model, precision } = config;
  const dir = await resolveModel(model, {
    cacheDir,
    onFile: (name, bytes) => process.stderr.write(`downloading ${name} (${counted(bytes, "byte")})\n`),
  });
  const checkpoint = await openCheckpoint(dir, { cacheDir });
  try {
    console.log(await ensureGraph(checkpoint, join(cacheDir, "graphs"), precision));
  } finally {
    await checkpoint.close();
  }
}
