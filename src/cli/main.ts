#!/usr/bin/env node
/** `prefixd COMMAND`: one line on stderr and exit code 1 for everything that can be the user's doing. */
import { readFileSync } from "node:fs";
import { ConfigError } from "../config.ts";
import { PrefixdError } from "../errors.ts";
import { build } from "./build.ts";
import { doctor } from "./doctor.ts";
import { load } from "./load.ts";
import { push } from "./push.ts";
import { serve } from "./serve.ts";
import { users } from "./users.ts";

const USAGE = `Usage: prefixd COMMAND

  serve [flags]                    start the server; flags with prefixd serve --help
  build [--model DIR] [--cache-dir DIR]
                                   build a model's graph ahead of the first start
  doctor [--device D] [--json]     what this machine has, which devices work, and what the others lack
  push DIR [--id NAME] [--url URL] register a PEFT folder with a running server
  load --scenario NAME [--url URL] measure a running server and check its answers; prefixd load --help
  users COMMAND ...                users and keys of a running server; prefixd users --help
  --version
`;

const COMMANDS: Readonly<Record<string, (args: readonly string[]) => Promise<void>>> = { serve, build, doctor, load, push, users };

const [name = "", ...args] = process.argv.slice(2);
const command = COMMANDS[name];
if (command !== undefined) {
  await command(args).catch(fail);
} else if (name === "--version") {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
  console.log(version);
} else if (name === "--help" || name === "-h") {
  process.stdout.write(USAGE);
} else {
  process.stderr.write(name === "" ? USAGE : `prefixd: no such command: ${name}\n${USAGE}`);
  process.exitCode = 2;
}

function fail(error: unknown): void {
  const expected = error instanceof ConfigError || error instanceof PrefixdError || (error instanceof Error && ["ModelLoadError", "DeviceError", "PrecisionError", "OrtError"].includes(error.name));
  const system = error instanceof Error && "code" in error && typeof error.code === "string" ? error.message : undefined;
  process.stderr.write(`prefixd: ${expected ? error.message + reasonOf(error) : (system ?? (error instanceof Error ? error.stack : String(error)))}\n`);
  process.exit(error instanceof ConfigError ? 2 : 1);
}

/** What a store's error, which is for clients too, leaves out: an operator needs to know which file, and why. */
function reasonOf(error: Error): string {
  if (!(error instanceof PrefixdError) || !(error.cause instanceof Error) || error.message.includes(error.cause.message)) return "";
  return ` (${error.cause.message.split("\n")[0]})`;
}
