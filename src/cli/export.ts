import { createWriteStream, existsSync } from "node:fs";
import { rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { exportArchive } from "../archive/export.ts";
import type { ArchiveRecord } from "../archive/records.ts";
import { counted } from "../counted.ts";
import { ConfigError } from "../errors.ts";
import { syncFolder } from "../lmdb/erase.ts";
import { oneLine } from "../one-line.ts";
import { readArguments } from "./arguments.ts";
import { CommandError } from "./command-error.ts";
import { checkWritable } from "./files.ts";
import { openStore } from "./store.ts";

const USAGE = `Usage: prefixd export --store URL --out FILE [--user ID]...

Writes users with their limits and hashes of their keys, prefixes with their files and sharing, and usage to one file, which prefixd
import reads into a store of either kind. A folder's server must be stopped; of a running one, prefixd backup makes the same file. Training
files and jobs, and earlier versions of prefixes, are not in it.

  --store URL            the store, as for prefixd serve; else PREFIXD_STORE
  --out FILE             the file; - is stdout
  --user ID              only this user; may be repeated
  --force                overwrite FILE

Exit code 0: done; 1: the store could not be read, a prefix in it is damaged, or FILE could not be written; 2: bad usage.
`;

/** `prefixd export`: a store's content as one file. */
export async function exportStore(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(
    "export",
    args,
    {
      store: { type: "string" },
      out: { type: "string" },
      user: { type: "string", multiple: true },
      force: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    } as const,
    USAGE,
  );
  if (values.help === true) return void process.stdout.write(USAGE);
  if (values.out === undefined || positionals.length > 0)
    throw new ConfigError("export takes --out FILE and no operands", USAGE);
  checkOut(values.out, values.force === true);
  const backend = await openStore("export", values.store, { mustExist: true, usage: USAGE });
  const told = new Told();
  try {
    const bytes = exportArchive(backend, {
      ...(values.user === undefined ? {} : { users: values.user }),
      onRecord: (record) => told.record(record),
    });
    await writeArchive(bytes, values.out);
  } finally {
    await backend.close();
  }
  told.finish("exported");
}

/** Throws CommandError or ConfigError if an export cannot go to `out`. */
export function checkOut(out: string, force: boolean): void {
  checkWritable("--out", out);
  if (out === "-" && process.stdout.isTTY)
    throw new CommandError("--out -: an export is not for a terminal; redirect it to a file or a program");
  if (out !== "-" && !force && existsSync(out))
    throw new CommandError(`${out} exists already: give another name, or --force to overwrite it`);
}

/** Writes the bytes to a file, which appears when it is whole and on disk, or to stdout (`-`). */
export async function writeArchive(bytes: AsyncIterable<Uint8Array>, out: string): Promise<void> {
  if (out === "-") return pipeline(Readable.from(bytes), process.stdout, { end: false });
  const partial = `${out}.partial`;
  try {
    // It has hashes of keys and everybody's prefixes.
    await pipeline(Readable.from(bytes), createWriteStream(partial, { mode: 0o600, flush: true }));
    await rename(partial, out);
  } catch (error) {
    await rm(partial, { force: true });
    throw error;
  }
  syncFolder(dirname(out));
}

/** Counts records, and says on stderr what an export has; stdout may be the export. */
export class Told {
  readonly #counts = { user: 0, key: 0, prefix: 0, "usage row": 0 };
  #damaged = 0;

  record(record: ArchiveRecord): void {
    if (record.kind === "user") {
      this.#counts.user++;
      this.#counts.key += record.keys.length;
    } else if (record.kind === "prefix") this.#counts.prefix++;
    else if (record.kind === "usage") this.#counts["usage row"] += record.rows.length;
    else if (record.kind === "damaged") {
      this.#damaged++;
      console.error(`prefixd: ${oneLine(`${record.user}/${record.name}`)} is damaged and not in the export`);
    }
  }

  finish(what: string): void {
    const counts = Object.entries(this.#counts).map(([name, count]) => counted(count, name));
    console.error(`${what} ${counts.join(", ")}`);
    if (this.#damaged > 0) throw new CommandError(`missing, being damaged: ${counted(this.#damaged, "prefix")}`);
  }
}
