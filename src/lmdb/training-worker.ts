/** Entry point of the thread that owns training's LMDB environment and files; training-store.ts is the other end. */
import { serveCalls } from "./serve-calls.ts";
import { LmdbTrainingTables, type LmdbTrainingOptions } from "./training-tables.ts";

serveCalls<LmdbTrainingTables>(
  (options) => new LmdbTrainingTables(options as LmdbTrainingOptions),
  [
    "incomingPath",
    "discardIncoming",
    "putFile",
    "getFile",
    "listFiles",
    "deleteFile",
    "storedBytes",
    "createJob",
    "getJob",
    "listJobs",
    "waiting",
    "claim",
    "progress",
    "release",
    "seal",
    "end",
    "cancel",
    "folderOf",
    "leaveFolder",
    "counts",
    "addEvent",
    "listEvents",
    "addCheckpoint",
    "listCheckpoints",
    "deleteCheckpoint",
    "deleteUser",
    "ping",
  ],
  "training store",
);
