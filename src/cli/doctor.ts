import { parseConfig } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { examine } from "../doctor/examine.ts";
import { reportText } from "../doctor/text.ts";
import { checkSettings } from "./files.ts";

const USAGE = `Usage: prefixd doctor [--device cpu|webgpu|cuda] [--precision fp32|int8|fp16] [--max-batch N] [--json]

Shows what this machine has, which devices a server can use, and what the others lack. Serves a tiny model on each device and compares the
tokens with PEFT's, and tries an HTTP worker. The exit code is 0 if --device (default cpu) works. Takes serve's flags and variables.
`;

/** `prefixd doctor`: exit code 1 if the requested device does not work; the other devices are only reported. */
export async function doctor(args: readonly string[]): Promise<void> {
  const settings = args.filter((arg) => arg !== "--json");
  if (args.length - settings.length > 1) throw new ConfigError("--json: given twice");
  const config = parseConfig(settings, process.env);
  if (config === "help") return void process.stdout.write(USAGE);
  checkSettings(config);
  const report = await examine({
    device: config.device,
    precision: config.precision,
    slots: config.maxBatch,
    threads: config.threads,
    storeFolder: config.storeFolder,
  });
  process.stdout.write(args.includes("--json") ? `${JSON.stringify(report, null, 2)}\n` : reportText(report));
  process.exitCode = report.ok ? 0 : 1;
}
