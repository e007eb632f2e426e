import { existsSync } from "node:fs";
import { parseConfig, secretsOf } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { FolderInUseError } from "../lmdb/folder-lock.ts";
import { createLogger, logDestination } from "../observability/logging.ts";
import { SecretFilter } from "../observability/secrets.ts";
import type { Backend } from "../replicas/backend.ts";
import { openBackend } from "../start/backend.ts";
import { CommandError } from "./command-error.ts";
import { hidePasswords } from "./hide-passwords.ts";

/**
 * Opens the store that `--store` names, else the variable PREFIXD_STORE, for a command that works on it without a
 * server. A folder is locked meanwhile; `mustExist`: it is not created. Warnings go to stderr. Throws ConfigError,
 * CommandError (a folder in use, too), PrefixdError.
 */
export async function openStore(
  command: string,
  store: string | undefined,
  { mustExist, usage }: { mustExist: boolean; usage: string },
): Promise<Backend> {
  const url = store ?? (process.env["PREFIXD_STORE"] || undefined);
  if (url === undefined) throw new ConfigError(`${command}: give --store URL or PREFIXD_STORE`, usage);
  // How to reach Redis is set as for a server.
  const ofRedis = Object.entries(process.env).filter(([name]) => name.startsWith("PREFIXD_REDIS_"));
  const config = parseConfig([`--store=${url}`], Object.fromEntries(ofRedis));
  if (config === "help") throw new ConfigError(`${command}: give --store URL`, usage);
  hidePasswords();
  if (mustExist && config.storeFolder !== null && !existsSync(config.storeFolder))
    throw new CommandError(`--store lmdb:${config.storeFolder}: there is no such folder`);
  const logger = createLogger("warn", logDestination(process.stderr.fd), new SecretFilter(secretsOf(config)));
  return openBackend(config, logger).catch((error: unknown) => {
    if (!(error instanceof FolderInUseError)) throw error;
    throw new CommandError(
      `--store lmdb:${config.storeFolder} is in use by ${error.holder}: stop it first (prefixd backup saves what a running server has)`,
    );
  });
}
