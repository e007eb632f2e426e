/** Entry point of the thread that owns the users' LMDB environment; user-store.ts is the other end. */
import { serveCalls } from "./serve-calls.ts";
import { LmdbUserTables, type LmdbUserOptions } from "./user-tables.ts";

serveCalls<LmdbUserTables>(
  (options) => new LmdbUserTables(options as LmdbUserOptions),
  [
    "createUser",
    "getUser",
    "missingUsers",
    "listUsers",
    "patchUser",
    "putKey",
    "findKey",
    "listKeys",
    "deleteKey",
    "deleteUser",
    "addUsage",
    "usage",
    "usageUsers",
    "usageSums",
    "deletedAt",
    "noteDeletions",
    "listDeletions",
    "ping",
  ],
  "user store",
);
