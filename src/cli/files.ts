/** Flags that name files and folders, checked before a command begins. A place that is `-` is a standard stream. */
import { accessSync, constants, existsSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { Config } from "../config.ts";
import { ConfigError } from "../errors.ts";
import { fileTrouble } from "../file-trouble.ts";
import { parseHubId } from "../formats/hub-id.ts";

/** Throws ConfigError, one line with flag and path, unless `path` is a file (or a pipe) that can be read. */
export function checkReadable(flag: string, path: string | undefined | null): void {
  if (path === undefined || path === null || path === "-") return;
  attempt(flag, path, () => accessSync(path, constants.R_OK));
  if (statSync(path).isDirectory()) throw new ConfigError(`${flag} ${path}: it is a folder, not a file`);
}

/** The same for a folder that can be read. */
export function checkFolderReadable(flag: string, path: string): void {
  attempt(flag, path, () => accessSync(path, constants.R_OK));
  if (!statSync(path).isDirectory()) throw new ConfigError(`${flag} ${path}: it is a file, not a folder`);
}

/** The same for a file that can be made or written; the folder that it is in must be there. */
export function checkWritable(flag: string, path: string | undefined): void {
  if (path === undefined || path === "-") return;
  const folder = dirname(resolve(path));
  if (existsSync(path)) {
    if (statSync(path).isDirectory()) throw new ConfigError(`${flag} ${path}: it is a folder, not a file`);
    attempt(flag, path, () => accessSync(path, constants.W_OK));
  } else if (!existsSync(folder)) throw new ConfigError(`${flag} ${path}: there is no folder ${folder}`);
  else attempt(flag, path, () => accessSync(folder, constants.W_OK));
}

/** The same for a folder that is there (whoever may write to it) or can be made, with the folders above it. */
export function checkFolderWritable(flag: string, path: string): void {
  const place = existingPart(flag, path);
  if (place !== resolve(path)) attempt(flag, path, () => accessSync(place, constants.W_OK | constants.X_OK));
}

/** The same for the settings of a server that name files, as far as nothing else names the flag. */
export function checkSettings({ model, cacheDir, chatTemplate, prefixes, auditLog, storeFolder }: Config): void {
  if (parseHubId(model) === null || existsSync(model)) checkFolderReadable("--model", model);
  existingPart("--cache-dir", cacheDir);
  if (storeFolder !== null) existingPart("--store", storeFolder);
  if (chatTemplate !== "" && chatTemplate !== "none") checkReadable("--chat-template", chatTemplate);
  if (prefixes !== "") checkFolderReadable("--prefixes", prefixes);
  if (auditLog !== "") checkWritable("--audit-log", auditLog);
}

/** The same for the cache of a command that may have to build graphs: only one that has some may be read-only. */
export function checkCache({ cacheDir }: Pick<Config, "cacheDir">): void {
  checkFolderWritable("--cache-dir", cacheDir);
  checkFolderWritable("--cache-dir", join(cacheDir, "graphs"));
}

/** The folder itself, or the nearest above it that is there. */
function existingPart(flag: string, path: string): string {
  let place = resolve(path);
  while (!existsSync(place)) place = dirname(place);
  if (!statSync(place).isDirectory()) throw new ConfigError(`${flag} ${path}: ${place} is not a folder`);
  return place;
}

function attempt(flag: string, path: string, access: () => void): void {
  try {
    access();
  } catch (error) {
    throw new ConfigError(`${flag} ${path}: ${fileTrouble(error)}`);
  }
}
