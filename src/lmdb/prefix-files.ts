/** Locations of users' data in the store's folder. */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { DATA_FILE } from "./file.ts";

const PREFIXES = "prefixes";

/** The folder of all users' folders. */
export function prefixesFolder(dir: string): string {
  return join(dir, PREFIXES);
}

/** The folder of the sharing index. */
export function sharesFolder(dir: string): string {
  return join(dir, "shares");
}

/** Folder name of a user: a hash, since ids may exceed a file name's length and should not be visible. */
export function userFolderName(user: string): string {
  return createHash("sha256").update(user).digest("hex").slice(0, 32);
}

/** A user's data file; absent before the first prefix. */
export function userFile(dir: string, user: string): string {
  return join(prefixesFolder(dir), userFolderName(user), DATA_FILE);
}
