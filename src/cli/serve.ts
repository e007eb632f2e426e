import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { helpText, parseConfig, type Config } from "../config.ts";
import type { PrefixdError } from "../errors.ts";
import type { RunningServer } from "../main.ts";
import { checkCache, checkFolderWritable, checkSettings } from "./files.ts";
import { hidePasswords } from "./hide-passwords.ts";
import { onStopSignals, type StopSignal } from "./signals.ts";

/** Time to send the last responses when the device is lost. */
const LAST_BYTES_MS = 2_000;

/**
 * `prefixd serve`: runs until SIGTERM or SIGINT, then drains. A second signal, at least a second later, ends it at
 * once.
 */
export async function serve(args: readonly string[]): Promise<void> {
  const config = parseConfig(args, process.env);
  if (config === "help") return void process.stdout.write(helpText());
  checkSettings(config);
  checkCache(config);
  if (config.storeFolder !== null) checkFolderWritable("--store", config.storeFolder);
  hidePasswords();
  let server: RunningServer | null = null;
  const end = (signal: StopSignal): never => process.exit(128 + (signal === "SIGINT" ? 2 : 15));
  const stop = (signal: StopSignal): void => {
    // During the start there is nothing to drain, and a killed start leaves nothing half done.
    if (server === null) return end(signal);
    server.stop().then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`prefixd: ${String(error)}\n`);
        process.exit(1);
      },
    );
  };
  onStopSignals(stop, end);
  // Imported late: its modules take a second, which --help and configuration errors need not wait for.
  const { startServer } = await import("../main.ts");
  server = await startServer(config);
  const running = server;
  void running.deviceLost.then((error) => endWithDevice(error, running));
  if (process.stdout.isTTY || process.env["npm_lifecycle_event"] === "start")
    process.stderr.write(await whatToTry(server.url, config));
}

/**
 * Ends the process after the device is lost; its requests have ended with it. A hung call cannot be cancelled and
 * exit() would wait for its thread, so only a signal ends the process then.
 */
async function endWithDevice(error: PrefixdError, server: RunningServer): Promise<never> {
  process.stderr.write(`prefixd: ${error.message}\n`);
  const stopped = await Promise.race([server.stop({ delaySeconds: 0 }).then(() => true), sleep(LAST_BYTES_MS, false)]);
  if (!stopped) process.kill(process.pid, "SIGKILL");
  process.exit(1);
}

/** Example requests, printed on a manual start. */
async function whatToTry(url: string, config: Config): Promise<string> {
  const { adapterFolders } = await import("../prefixes/folder.ts");
  const names = config.prefixes === "" ? [] : (await adapterFolders(config.prefixes)).names;
  const first = names.find((name) => name === "datenorm") ?? names[0];
  const body = JSON.stringify({
    prompt: "i want to book a flight to london on August 14th, 2024\n=>",
    ...(first === undefined ? {} : { prefix_id: first }),
    max_new_tokens: 40,
  });
  return [
    "",
    `prefixd serves ${config.model} at ${url}. Try:`,
    "",
    `  curl ${url}/generate -H 'content-type: application/json' -d '${body}'`,
    `  curl ${url}/prefixes`,
    ...(first === undefined ? [] : [`  npx prefixd push ${join(config.prefixes, first)} --id mine --url ${url}`]),
    ...(config.console === "on" ? [`  open ${url}/console`] : []),
    `  open ${url}/docs`,
    "",
    "",
  ].join("\n");
}
