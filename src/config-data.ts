import Type from "typebox";

/** Settings of what the store keeps of the past, and of backups. */
export const DATA_SETTINGS = {
  prefixVersions: Type.Integer({
    minimum: 0,
    maximum: 100,
    arg: "N",
    default: 3,
    description: "Earlier versions of a prefix that are kept, to be put back; they count for max_prefix_bytes",
  }),
  backupRate: Type.Integer({
    minimum: 1024 ** 2,
    maximum: 1024 ** 4,
    unit: "bytes",
    arg: "SIZE",
    default: 64 * 1024 ** 2,
    shown: "64MiB",
    description:
      "Bytes a second of a backup (POST /admin/backup), so that it leaves the store and the network to requests",
  }),
};
