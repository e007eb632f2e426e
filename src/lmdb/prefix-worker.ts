/** Entry point of the thread that owns the prefixes' LMDB environments; prefix-store.ts is the other end. */
import { serveCalls } from "./serve-calls.ts";
import { LmdbTables, type LmdbOptions } from "./prefix-tables.ts";

serveCalls<LmdbTables>(
  (options) => new LmdbTables(options as LmdbOptions),
  [
    "put",
    "versions",
    "restore",
    "patchMeta",
    "head",
    "loadKv",
    "loadFile",
    "list",
    "listShared",
    "held",
    "delete",
    "deleteUser",
    "ping",
  ],
  "prefix store",
);
