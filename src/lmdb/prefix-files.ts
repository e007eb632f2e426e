/** Where in the store's folder a user's data lies. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { DATA_FILE } from "./file.ts";

const PREFIXES = "prefixes";

/** The folder of all users' folders. */
export function prefixesFolder(dir: string): string {
  return join(dir, PREFIXES);
}

/** The index of what is shared with whom. */
export function sharesFolder(dir: string): string {
  return join(dir, "shares");
}

/** A hash: ids may be longer than a file name, and are nobody's business. */
export function userFolderName(user: string): string {
  return createHash("sha256").update(user).digest("hex").slice(0, 32);
}

/** A user's data; there is none before the first prefix. */
export function userFile(dir: string, user: string): string {
  return join(prefixesFolder(dir), userFolderName(user), DATA_FILE);
}
