/** Stores to be damaged: with pages of every kind, also free ones and values on pages of their own. */
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import type { LmdbTables } from "../../src/lmdb/prefix-tables.ts";
import type { PrefixMeta } from "../../src/prefixes/store.ts";
import { openLmdbUserStore } from "../../src/lmdb/user-store.ts";
import type { LmdbUserTables } from "../../src/lmdb/user-tables.ts";
import { apiKey, usageRow, user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";

export const DAMAGED_USER = "ann";
const PREFIXES = 40;
const USERS = 60;

export async function makePrefixes(dir: string): Promise<void> {
  const store = await openLmdbStore({ dir });
  for (let i = 0; i < PREFIXES; i++)
    await store.put(await record({ user: DAMAGED_USER, name: `p${i}` }, i, { length: 1 + (i % 30) }));
  // Replaced and deleted ones leave free pages.
  for (let i = 0; i < PREFIXES; i += 3)
    await store.put(await record({ user: DAMAGED_USER, name: `p${i}` }, i + 50, { length: 25 }));
  for (let i = 4; i < PREFIXES; i += 7) await store.delete({ user: DAMAGED_USER, name: `p${i}` });
  // A list that does not fit on a page.
  await store.patchMeta(
    { user: DAMAGED_USER, name: "p0" },
    { shared_with: Array.from({ length: 300 }, (_, i) => `a-guest-of-a-long-name-${i}`) },
  );
  await store.put(await record({ user: "bob", name: "p" }, 1));
  await store.close();
}

export async function makeUsers(dir: string): Promise<void> {
  const store = await openLmdbUserStore({ dir });
  for (let i = 0; i < USERS; i++) {
    await store.createUser(user(`u${i}`));
    await store.putKey({ ...apiKey(`u${i}`), id: `key-${i}` });
    await store.addUsage([usageRow(`u${i}`, "p", "2026-01-01")]);
  }
  for (let i = 0; i < USERS; i += 2) await store.deleteKey(`u${i}`, `key-${i}`);
  await store.close();
}

/** All that can be read of the user's prefixes. */
export async function prefixContents(
  tables: LmdbTables,
): Promise<{ meta: PrefixMeta; kv: Uint8Array | null; files: (string | null)[] }[]> {
  const metas = await tables.list(DAMAGED_USER, { limit: 1000 });
  const contents = [];
  for (const { name } of metas) {
    const meta = (await tables.head({ user: DAMAGED_USER, name }))!;
    const files = [];
    for (const file of Object.keys(meta.files))
      files.push(Buffer.from((await tables.loadFile(meta, meta.digest, file)) ?? []).toString("hex"));
    contents.push({ meta, kv: await tables.loadKv(meta, meta.digest), files });
  }
  return contents;
}

/** All that can be read of users. */
export function userContents(tables: LmdbUserTables): unknown {
  return tables.listUsers({ limit: 1000 }).map((each) => {
    const keys = tables.listKeys(each.id);
    return { each, keys, found: keys.map(({ id }) => tables.findKey(id)), usage: tables.usage(each.id, { limit: 9 }) };
  });
}
