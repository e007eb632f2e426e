import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { helpText, parseConfig, type Config } from "../config.ts";
import { startServer } from "../main.ts";

/** Time for the last answers to leave when the device is lost. */
const LAST_BYTES_MS = 2_000;

/** `prefixd serve`: runs until SIGTERM or SIGINT, then drains; a second signal ends it at once. */
export async function serve(args: readonly string[]): Promise<void> {
  const config = parseConfig(args, process.env);
  if (config === "help") return void process.stdout.write(helpText());
  const server = await startServer(config);
  if (process.stdout.isTTY || process.env["npm_lifecycle_event"] === "start") process.stderr.write(whatToTry(server.url, config));
  let stopping = false;
  const stop = (signal: NodeJS.Signals): void => {
    if (stopping) process.exit(128 + (signal === "SIGINT" ? 2 : 15));
    stopping = true;
    server.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`prefixd: ${String(error)}\n`);
        process.exit(1);
      },
    );
  };
  void server.deviceLost.then(async (error) => {
    process.stderr.write(`prefixd: ${error.message}\n`);
    // Requests have ended with it; freeing what is left of a device that hangs can hang as well.
    await Promise.race([server.stop(), sleep(LAST_BYTES_MS)]);
    process.exit(1);
  });
  process.on("SIGTERM", stop).on("SIGINT", stop);
}

/** For whoever starts it by hand: the first requests to send. */
function whatToTry(url: string, config: Config): string {
  const names = config.prefixes !== "" && existsSync(config.prefixes) ? readdirSync(config.prefixes, { withFileTypes: true }).filter((entry) => entry.isDirectory()) : [];
  const first = names.find(({ name }) => name === "datenorm")?.name ?? names[0]?.name;
  const body = JSON.stringify({ prompt: "i want to book a flight to london on August 14th, 2024\n=>", ...(first === undefined ? {} : { prefix_id: first }), max_new_tokens: 40 });
  return [
    "",
    `prefixd serves ${config.model} at ${url}. Try:`,
    "",
    `  curl ${url}/generate -H 'content-type: application/json' -d '${body}'`,
    `  curl ${url}/prefixes`,
    ...(first === undefined ? [] : [`  npx prefixd push ${join(config.prefixes, first)} --id mine --url ${url}`]),
    `  open ${url}/docs`,
    "",
    "",
  ].join("\n");
}
