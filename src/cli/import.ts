import { createReadStream } from "node:fs";
import { importArchive, type ImportResult } from "../archive/import.ts";
import { readArchive, type ReadRecord } from "../archive/reader.ts";
import { counted } from "../counted.ts";
import { ConfigError } from "../errors.ts";
import { oneLine } from "../one-line.ts";
import { readArguments } from "./arguments.ts";
import { CommandError } from "./command-error.ts";
import { checkReadable } from "./files.ts";
import { openStore } from "./store.ts";

const USAGE = `Usage: prefixd import --store URL --in FILE [--user ID]... [--replace] [--bring-back ID]...

Reads what prefixd export or prefixd backup wrote into a store. What is there already stays, so an import that was interrupted can be
repeated. A folder's server must be stopped; a folder that does not exist is created.

  --store URL            the store, as for prefixd serve; else PREFIXD_STORE
  --in FILE              the export; - is stdin. A file is checked as a whole before anything is written
  --check                only check the export; takes no store
  --user ID              only what belongs to this user; may be repeated
  --replace              overwrite limits, prefixes and sharing that are others here
  --bring-back ID        import this user, and the user's keys, although deleted here since the export; may be repeated
  --json                 print what became of the records as JSON

Exit code 0: done; 1: the export is damaged, the store refused, or something was there with other content; 2: bad usage.
`;

/** `prefixd import`: an export's content into a store. */
export async function importStore(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments(
    "import",
    args,
    {
      store: { type: "string" },
      in: { type: "string" },
      check: { type: "boolean" },
      user: { type: "string", multiple: true },
      replace: { type: "boolean" },
      "bring-back": { type: "string", multiple: true },
      json: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    } as const,
    USAGE,
  );
  if (values.help === true) return void process.stdout.write(USAGE);
  const file = values.in;
  if (file === undefined || positionals.length > 0)
    throw new ConfigError("import takes --in FILE and no operands", USAGE);
  checkReadable("--in", file);
  const records = (): AsyncGenerator<ReadRecord> => readArchive(file === "-" ? process.stdin : createReadStream(file));
  if (values.check === true || file !== "-") {
    let count = 0;
    for await (const { record } of records()) if (record.kind !== "end") count++;
    if (values.check === true) return console.log(`the export is whole: ${counted(count, "record")}`);
  }
  const backend = await openStore("import", values.store, { mustExist: false, usage: USAGE });
  let result: ImportResult;
  try {
    result = await importArchive(records(), backend, {
      ...(values.user === undefined ? {} : { users: values.user }),
      replace: values.replace === true,
      bringBack: values["bring-back"] ?? [],
      onProblem: (text) => console.error(`prefixd: ${oneLine(text)}`),
    });
  } finally {
    await backend.close();
  }
  console.log(values.json === true ? JSON.stringify(result) : textOf(result));
  if (result.conflicts + result.damaged > 0)
    throw new CommandError(
      `there with other content: ${counted(result.conflicts, "record")} (--replace overwrites limits, prefixes and sharing); damaged: ${result.damaged}`,
    );
}

function textOf({ imported, present, deleted }: ImportResult): string {
  const rows = Object.keys(imported).map((name) => {
    const counted = name as keyof ImportResult["imported"];
    return `${name.replace("_", " ")}: ${imported[counted]} imported, ${present[counted]} there already`;
  });
  return [...rows, `left out, deleted here since or of users who are not here: ${deleted}`].join("\n");
}
