/**
 * Puts two versions of each of ten prefixes in turn, 100 PUTs in all, and says after each answer which one it was; the test
 * kills it in the middle. Arguments: store (`lmdb:DIR` or `redis://...`), namespace, first version.
 */
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { openRedisStore } from "../../src/redis/prefix-store.ts";
import { crashVersion } from "./crash.ts";

const [where = "", namespace = "", first = "0"] = process.argv.slice(2);
const store = where.startsWith("lmdb:")
  ? await openLmdbStore({ dir: where.slice(5) })
  : await openRedisStore({ url: where, namespace, chunkBytes: 16 * 1024 });
process.stdout.write("ready\n");
for (let i = 0; i < 100; i++) {
  const version = (Number(first) + Math.floor(i / 10)) % 2;
  await store.put(await crashVersion(i % 10, version));
  process.stdout.write(`${i % 10} ${version}\n`);
}
await store.close();
