#!/usr/bin/env node
/** `prefixd COMMAND`: one line on stderr and exit code 1 for everything that can be the user's doing. */
import { readFileSync } from "node:fs";

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

/** Loaded when they are called: a server's modules take a second, a client's command need not wait for them. */
const COMMANDS: Readonly<Record<string, () => Promise<(args: readonly string[]) => Promise<void>>>> = {
  serve: async () => (await import("./serve.ts")).serve,
  build: async () => (await import("./build.ts")).build,
  doctor: async () => (await import("./doctor.ts")).doctor,
  load: async () => (await import("./load.ts")).load,
  push: async () => (await import("./push.ts")).push,
  users: async () => (await import("./users.ts")).users,
};

/** Errors whose message is all that an operator needs. */
const EXPECTED = new Set(["ConfigError", "PrefixdError", "ModelLoadError", "DeviceError", "PrecisionError", "OrtError", "FolderInUseError"]);

const [name = "", ...args] = process.argv.slice(2);
const command = COMMANDS[name];
if (command !== undefined) {
  const run = await command();
  await run(args).catch(fail);
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
  const name = error instanceof Error ? error.name : "";
  const system = error instanceof Error && "code" in error && typeof error.code === "string" ? error.message : undefined;
  process.stderr.write(`prefixd: ${EXPECTED.has(name) ? (error as Error).message + reasonOf(error as Error) : (system ?? (error instanceof Error ? error.stack : String(error)))}\n`);
  process.exit(name === "ConfigError" ? 2 : 1);
}

/** What a store's error, which is for clients too, leaves out: an operator needs to know which file, and why. */
function reasonOf(error: Error): string {
  if (error.name !== "PrefixdError" || !(error.cause instanceof Error) || error.message.includes(error.cause.message)) return "";
  return ` (${error.cause.message.split("\n")[0]})`;
}
