/** Entry of the thread that owns the LMDB environment; see lmdb-store.ts for the other end. */
import { serveCalls } from "../storage/serve-calls.ts";
import { LmdbTables, type LmdbOptions } from "./lmdb-tables.ts";

serveCalls<LmdbTables>((options) => new LmdbTables(options as LmdbOptions), ["put", "patchMeta", "head", "loadKv", "loadFile", "list", "listShared", "held", "delete", "deleteUser", "ping"], "prefix store");
