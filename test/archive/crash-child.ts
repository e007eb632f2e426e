/** Imports an export into a store and says so after each record; the test kills it in the middle. Arguments: export, store. */
import { createReadStream } from "node:fs";
import { importArchive } from "../../src/archive/import.ts";
import { readArchive, type ReadRecord } from "../../src/archive/reader.ts";
import { openAt } from "./stores.ts";

const [file = "", store = ""] = process.argv.slice(2);
const target = await openAt(store);
async function* told(): AsyncGenerator<ReadRecord> {
  for await (const record of readArchive(createReadStream(file))) {
    process.stdout.write(`${record.record.kind}\n`);
    yield record;
  }
}
await importArchive(told(), target);
await target.close();
