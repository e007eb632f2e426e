import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { counted } from "../counted.ts";
import { ConfigError, PrefixdError } from "../errors.ts";
import { oneLine } from "../one-line.ts";
import type { Backend } from "../replicas/backend.ts";
import { deletionHash } from "../users/deletions.ts";
import { isUserId } from "../users/user-id.ts";
import { readArguments } from "./arguments.ts";
import { checkReadable } from "./files.ts";
import { openStore } from "./store.ts";

const USAGE = `Usage: prefixd remove-again --store URL --audit-log FILE... [--keep-usage]

After a store was restored from an older copy of its own files (Redis' dump or append-only file, a copied folder): removes the users and
keys again that had been removed since, by the lines of the audit log, and remembers them. Start no server before. An import of what
prefixd export or prefixd backup wrote needs this only for a store that has lost its memory.

  --store URL            the store, as for prefixd serve; else PREFIXD_STORE
  --audit-log FILE       what prefixd serve --audit-log wrote; may be repeated, for rotated files and other replicas'
  --keep-usage           keep the users' usage

Exit code 0: done; 1: the store could not be read; 2: bad usage.
`;

/** A deletion that a line of the audit log tells of. */
interface Removed {
  readonly at: string;
  readonly user: string;
  /** null: the user. */
  readonly key: string | null;
}

/** `prefixd remove-again`: repeats the removals of the audit log on a restored store. */
export async function removeAgain(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(
    "remove-again",
    args,
    {
      store: { type: "string" },
      "audit-log": { type: "string", multiple: true },
      "keep-usage": { type: "boolean" },
      help: { type: "boolean", short: "h" },
    } as const,
    USAGE,
  );
  if (values.help === true) return void process.stdout.write(USAGE);
  const files = values["audit-log"] ?? [];
  if (files.length === 0 || positionals.length > 0)
    throw new ConfigError("remove-again takes --audit-log FILE and no operands", USAGE);
  for (const file of files) checkReadable("--audit-log", file);
  const backend = await openStore("remove-again", values.store, { mustExist: true, usage: USAGE });
  let [lines, users, keys] = [0, 0, 0];
  try {
    for (const file of files)
      for await (const removed of removedIn(file)) {
        lines++;
        if (!(await repeat(backend, removed, values["keep-usage"] === true))) continue;
        if (removed.key === null) users++;
        else keys++;
        console.log(oneLine(`removed again: ${removed.user}${removed.key === null ? "" : `/${removed.key}`}`));
      }
  } finally {
    await backend.close();
  }
  console.log(
    `${counted(lines, "removal")} in the audit log; removed again: ${counted(users, "user")}, ${counted(keys, "key")}`,
  );
}

/** The removals in an audit log; other lines, and those that are cut, tell of none. */
async function* removedIn(file: string): AsyncGenerator<Removed> {
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    const entry = parsed(line);
    if (entry === null || entry["outcome"] !== "ok") continue;
    const { action, target, time } = entry;
    if (typeof target !== "string" || typeof time !== "string" || Number.isNaN(Date.parse(time))) continue;
    const [user = "", key = null] = target.split("/");
    const at = new Date(time).toISOString();
    if (!isUserId(user)) continue;
    if (action === "user.remove") yield { at, user, key: null };
    else if (action === "key.delete" && key !== null) yield { at, user, key };
  }
}

function parsed(line: string): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** False if there was nothing to remove: already gone, or another user who was created under the id later. */
async function repeat({ users, prefixes, training }: Backend, removed: Removed, keepUsage: boolean): Promise<boolean> {
  const { user: id, key, at } = removed;
  await users.noteDeletions([{ hash: key === null ? deletionHash("user", id) : deletionHash("key", key), at }]);
  if (key !== null) return users.deleteKey(id, key);
  const user = await users.getUser(id);
  if (user !== null && user.createdAt > at) return false;
  // As replicas/removal.ts does, with no server to tell.
  const first = await prefixes.deleteUser(id);
  await training?.deleteUser(id);
  const there = await users.deleteUser(id, { keepUsage }).catch((error: unknown) => {
    if (error instanceof PrefixdError && error.code === "user_not_found") return null;
    throw error;
  });
  await prefixes.deleteUser(id, { last: true });
  return there !== null || first.prefixes > 0;
}
