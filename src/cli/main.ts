#!/usr/bin/env node
/**
 * `prefixd COMMAND`: what can be the user's doing is told in a sentence on stderr, with exit code 2 for bad usage and 1
 * for the rest.
 */
import type { ConfigError } from "../errors.ts";
import { oneLine } from "../one-line.ts";
import { VERSION } from "../version.ts";

const USAGE = `Usage: prefixd COMMAND

  serve [flags]                    start the server; prefixd serve --help
  build [--model DIR] [--cache-dir DIR]
                                   build a model's graph ahead of the first start
  doctor [--device D] [--json]     show this machine, which devices work, and what the others lack
  train --data FILE --out DIR      train a prefix from examples; prefixd train --help
  generate PROMPT [--prefix ID]... generate on a running server, with one or more prefixes
  push DIR|hf:OWNER/NAME           register a PEFT adapter or a hard prompt with a running server
  list                             list the prefixes of a running server that you may use
  pull ID [DIR]                    download a prefix's files
  share ID [flags]                 set who else may use or download a prefix
  delete ID                        remove a prefix
  load --scenario NAME [--url URL] measure a running server and check its answers; prefixd load --help
  export --store URL --out FILE    write users, keys, prefixes and usage of a store to a file
  import --store URL --in FILE     read them into a store
  backup --out FILE                the same as export, of a running server
  remove-again --store URL --audit-log FILE
                                   after a restore of Redis or a folder: remove again who had been removed
  users COMMAND ...                manage users and keys of a running server; prefixd users --help
  --version

Every command has --help. Exit code 0: done; 1: it failed; 2: bad usage. docs/guides/prefixes.md shows push, list, pull, share and delete.
`;

/** Loaded on demand: the server's modules take a second, which client commands need not wait for. */
const COMMANDS: Readonly<Record<string, () => Promise<(args: readonly string[]) => Promise<void>>>> = {
  serve: async () => (await import("./serve.ts")).serve,
  build: async () => (await import("./build.ts")).build,
  doctor: async () => (await import("./doctor.ts")).doctor,
  load: async () => (await import("./load.ts")).load,
  train: async () => (await import("./train.ts")).train,
  generate: async () => (await import("./generate.ts")).generate,
  push: async () => (await import("./push.ts")).push,
  list: async () => (await import("./list.ts")).list,
  pull: async () => (await import("./pull.ts")).pull,
  share: async () => (await import("./share.ts")).share,
  delete: async () => (await import("./delete.ts")).deletePrefix,
  export: async () => (await import("./export.ts")).exportStore,
  import: async () => (await import("./import.ts")).importStore,
  backup: async () => (await import("./backup.ts")).backup,
  "remove-again": async () => (await import("./remove-again.ts")).removeAgain,
  users: async () => (await import("./users.ts")).users,
};

/** Errors whose message is enough for an operator; others print a stack trace. */
const EXPECTED = new Set([
  "ConfigError",
  "CommandError",
  "PrefixdError",
  "ModelLoadError",
  "DeviceError",
  "PrecisionError",
  "TrainingError",
  "OrtError",
  "FolderInUseError",
  "ArchiveError",
]);

const [name = "", ...args] = process.argv.slice(2);
const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
if (command !== undefined) {
  const run = await command();
  await run(args).catch(fail);
} else if (name === "--version") {
  console.log(VERSION);
} else if (name === "--help" || name === "-h") {
  process.stdout.write(USAGE);
} else {
  process.stderr.write(name === "" ? USAGE : `prefixd: no such command: ${oneLine(name)}\n${USAGE}`);
  process.exitCode = 2;
}

function fail(error: unknown): void {
  const name = error instanceof Error ? error.name : "";
  const system =
    error instanceof Error && "code" in error && typeof error.code === "string" ? error.message : undefined;
  process.stderr.write(
    `prefixd: ${EXPECTED.has(name) ? (error as Error).message + reasonOf(error as Error) : (system ?? (error instanceof Error ? error.stack : String(error)))}\n`,
  );
  if (name !== "ConfigError") process.exit(1);
  process.stderr.write((error as ConfigError).usage);
  process.exit(2);
}

/** The cause that a store's error hides from clients: an operator needs to know which file, and why. */
function reasonOf(error: Error): string {
  if (error.name !== "PrefixdError" || !(error.cause instanceof Error) || error.message.includes(error.cause.message))
    return "";
  return ` (${error.cause.message.split("\n")[0]})`;
}
