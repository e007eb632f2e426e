/**
 * Flips a bit of a sound store's file or cuts it, another one in each round, and uses what is left of it: run as a process of its own, which LMDB would end if it were given
 * what it cannot take. Says what came of it as JSON.
 */
import { cpSync, closeSync, openSync, readFileSync, rmSync, truncateSync, writeSync } from "node:fs";
import { join } from "node:path";
import { LmdbTables } from "../../src/lmdb/prefix-tables.ts";
import { userFile } from "../../src/lmdb/prefix-files.ts";
import { prefixDigest } from "../../src/prefixes/digest.ts";
import { PrefixdError } from "../../src/errors.ts";
import { DamagedFileError } from "../../src/lmdb/check.ts";
import { LmdbUserTables } from "../../src/lmdb/user-tables.ts";
import { apiKey, user } from "../contract/user-store.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import { DAMAGED_USER, prefixContents, userContents } from "./damage.ts";

const [kind = "", dir = "", seed = "1", rounds = "1"] = process.argv.slice(2);
const copy = `${dir}-copy`;
const outcome = { served: 0, refused: 0, wrong: [] as string[] };

/** Numerical Recipes' generator: the rounds can be had again. */
let state = Number(seed);
const pick = (below: number): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) % below;

/** Offsets that matter: of the meta pages, of the beginning and end of every page that has been written. */
function offset(bytes: Buffer): number {
  const pages = bytes.length / 4096;
  const page = pick(4) === 0 ? pick(2) : pick(pages);
  const at = [pick(24), 24 + pick(136), pick(4096), 4096 - 1 - pick(1024)][pick(4)]!;
  return page * 4096 + at;
}

async function prefixes(): Promise<unknown> {
  const tables = new LmdbTables({ dir: copy });
  try {
    const contents = await prefixContents(tables);
    for (const { meta, kv } of contents)
      if (kv === null || (await prefixDigest(SHAPE, meta.length, kv)) !== meta.digest)
        throw new PrefixdError("prefix_damaged", "What the cache finds.");
    await tables.put(await record({ user: DAMAGED_USER, name: "fresh" }, 99, { length: 20 }));
    await tables.patchMeta({ user: DAMAGED_USER, name: "p1" }, { shared_with: ["cat"] });
    await tables.delete({ user: DAMAGED_USER, name: "p2" });
    return contents;
  } finally {
    await tables.close();
  }
}

async function users(): Promise<unknown> {
  const tables = new LmdbUserTables({ dir: copy });
  try {
    const contents = userContents(tables);
    tables.createUser(user("fresh"));
    tables.putKey(apiKey("fresh"));
    tables.deleteUser("u1", { keepUsage: false });
    return contents;
  } finally {
    await tables.close();
  }
}

function flip(at: number, bit: number): void {
  const file = openSync(path(copy), "r+");
  writeSync(file, Buffer.of(sound[at]! ^ (1 << bit)), 0, 1, at);
  closeSync(file);
}

const use = kind === "users" ? users : prefixes;
const path = (root: string): string =>
  kind === "users"
    ? join(root, "users", readFileSync(join(root, "users", "current"), "utf8"), "data.mdb")
    : userFile(root, DAMAGED_USER);
const sound = readFileSync(path(dir));
const fresh = (): void => {
  rmSync(copy, { recursive: true, force: true });
  cpSync(dir, copy, { recursive: true });
};
fresh();
const expected = JSON.stringify(await use());
for (let round = 0; round < Number(rounds); round++) {
  fresh();
  const [at, bit] = pick(5) === 0 ? ([pick(sound.length), "cut"] as const) : ([offset(sound), pick(8)] as const);
  if (bit === "cut") truncateSync(path(copy), at);
  else flip(at, bit);
  try {
    if (JSON.stringify(await use()) === expected) outcome.served++;
    else outcome.wrong.push(`byte ${at} bit ${bit}: other contents`);
  } catch (error) {
    if (error instanceof DamagedFileError || (error instanceof PrefixdError && error.code === "prefix_damaged"))
      outcome.refused++;
    else outcome.wrong.push(`byte ${at} bit ${bit}: ${String(error)}`);
  }
}
rmSync(copy, { recursive: true, force: true });
process.stdout.write(JSON.stringify(outcome));
