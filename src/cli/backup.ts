import { readArchive } from "../archive/reader.ts";
import type { ArchiveRecord } from "../archive/records.ts";
import { ConfigError } from "../errors.ts";
import { readAdminKey } from "../key-files.ts";
import { readArguments } from "./arguments.ts";
import { checkOut, Told, writeArchive } from "./export.ts";
import { streamBytes } from "./http-client.ts";

const USAGE = `Usage: prefixd backup --out FILE [--url http://127.0.0.1:8080] [--admin-key-file FILE]

Writes users with hashes of their keys, prefixes and usage of a running server to a file, as prefixd export does of a store. prefixd import
reads it. The server goes on serving, and limits the rate (--backup-rate).

  --out FILE             the file; - is stdout. It appears when it is whole
  --force                overwrite FILE

The server is --url, else PREFIXD_URL, else http://127.0.0.1:8080; the admin key is read from the file or PREFIXD_ADMIN_KEY. Exit code 0:
done; 1: the server refused or did not answer, a prefix is damaged, or FILE could not be written; 2: bad usage.
`;

/** `prefixd backup`: an export of a running server, checked as it comes. */
export async function backup(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(
    "backup",
    args,
    {
      url: { type: "string" },
      "admin-key-file": { type: "string" },
      out: { type: "string" },
      force: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    } as const,
    USAGE,
  );
  if (values.help === true) return void process.stdout.write(USAGE);
  if (values.out === undefined || positionals.length > 0)
    throw new ConfigError("backup takes --out FILE and no operands", USAGE);
  checkOut(values.out, values.force === true);
  // A server without keys needs none.
  const key = readAdminKey(values["admin-key-file"] ?? "", process.env) ?? undefined;
  const told = new Told();
  const bytes = streamBytes(values.url, "/admin/backup", { method: "POST" }, key);
  await writeArchive(
    checked(bytes, (record) => told.record(record)),
    values.out,
  );
  told.finish("backed up");
}

/** The same bytes, handed on when the records in them are found whole. Throws ArchiveError. */
async function* checked(
  bytes: AsyncIterable<Uint8Array>,
  onRecord: (record: ArchiveRecord) => void,
): AsyncGenerator<Uint8Array> {
  const taken: Uint8Array[] = [];
  const tapped = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of bytes) {
      taken.push(piece);
      yield piece;
    }
  };
  for await (const { record } of readArchive(tapped())) {
    onRecord(record);
    yield* taken.splice(0);
  }
}
