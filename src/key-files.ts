import { readFileSync } from "node:fs";
import { ConfigError } from "./errors.ts";

const ADMIN_KEY = "PREFIXD_ADMIN_KEY";
const MIN_ADMIN_KEY = 32;

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

/** The key in the file that a flag names: its first line, without blanks around it. Throws ConfigError. */
export function readKeyFile(file: string, flag: string): string {
  try {
    return (readFileSync(file, "utf8").split("\n", 1)[0] ?? "").trim();
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "error";
    throw new ConfigError(`${flag} ${file}: cannot be read (${code})`);
  }
}

function checkAdminKey(key: string, source: string): string {
  if (key.length < MIN_ADMIN_KEY || key.length > 512)
    throw new ConfigError(`${source}: the admin key must have ${MIN_ADMIN_KEY} to 512 characters`);
  if (!/^[\x21-\x7e]+$/.test(key))
    throw new ConfigError(`${source}: the admin key must have only visible ASCII characters`);
  return key;
}
