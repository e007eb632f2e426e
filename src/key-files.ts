import { readFileSync, statSync } from "node:fs";
import { ConfigError } from "./errors.ts";
import { fileTrouble } from "./file-trouble.ts";

const ADMIN_KEY = "PREFIXD_ADMIN_KEY";
const MIN_ADMIN_KEY = 32;
/** Two while one takes the other's place, and a few more for several administrators. */
const MAX_ADMIN_KEYS = 8;

/**
 * The admin key from its file or its variable; null if there is none. Throws ConfigError, which never shows any of the
 * key.
 */
export function readAdminKey(file: string, env: Readonly<Record<string, string | undefined>>): string | null {
  const inline = env[ADMIN_KEY] || null;
  if (file === "") return inline === null ? null : checkAdminKey(inline, ADMIN_KEY);
  if (inline !== null) throw new ConfigError(`--admin-key-file and ${ADMIN_KEY}: give only one of them`);
  return checkAdminKey(readKeyFile(file, "--admin-key-file"), `--admin-key-file ${file}`);
}

/**
 * All admin keys that a server accepts: the lines of the file, or the variable's one; none: requests need no key. Throws
 * ConfigError, which never shows any of a key.
 */
export function readAdminKeys(file: string, env: Readonly<Record<string, string | undefined>>): string[] {
  const first = readAdminKey(file, env);
  if (file === "") return first === null ? [] : [first];
  const source = `--admin-key-file ${file}`;
  const keys = readText(file, "--admin-key-file")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  if (keys.length > MAX_ADMIN_KEYS) throw new ConfigError(`${source}: has more than ${MAX_ADMIN_KEYS} keys`);
  if (new Set(keys).size < keys.length) throw new ConfigError(`${source}: has a key twice`);
  return keys.map((key) => checkAdminKey(key, source));
}

/** The key in the file that a flag names: its first line, without blanks around it. Throws ConfigError. */
export function readKeyFile(file: string, flag: string): string {
  return (readText(file, flag).split("\n", 1)[0] ?? "").trim();
}

/** True if users other than the file's owner and group can read it. */
export function isWorldReadable(file: string): boolean {
  return (statSync(file).mode & 0o004) !== 0;
}

function readText(file: string, flag: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError(`${flag} ${file}: ${fileTrouble(error)}`);
  }
}

function checkAdminKey(key: string, source: string): string {
  if (key.length < MIN_ADMIN_KEY || key.length > 512)
    throw new ConfigError(`${source}: the admin key must have ${MIN_ADMIN_KEY} to 512 characters`);
  if (!/^[\x21-\x7e]+$/.test(key))
    throw new ConfigError(`${source}: the admin key must have only visible ASCII characters`);
  return key;
}
