import { join } from "node:path";
import t from "tap";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { effort } from "../support/effort.ts";
import { record, SHAPE } from "./records.ts";

const COUNT = effort({ short: 2_000, long: 10_000 });

t.test(`${COUNT} registered prefixes cost no memory until they are used`, async (t) => {
  const dir = join(t.testdir(), "lmdb");
  const writer = await openLmdbStore({ dir });
  const made = [];
  for (let i = 0; i < COUNT; i++)
    made.push(await record({ user: "ann", name: `p${String(i).padStart(5, "0")}` }, i, { length: 8 }));
  for (let at = 0; at < COUNT; at += 500) await Promise.all(made.slice(at, at + 500).map((put) => writer.put(put)));
  await writer.close();
  made.length = 0;

  global.gc?.();
  const before = process.memoryUsage.rss();
  const store = await openLmdbStore({ dir });
  t.teardown(() => store.close());
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 1 << 20, verifyMs: 0 });
  t.teardown(() => cache.close());
  const started = performance.now();
  let listed = 0;
  for (let after: string | undefined; ; ) {
    const page = await store.list("ann", { limit: 100, ...(after === undefined ? {} : { after }) });
    listed += page.length;
    after = page.at(-1)?.name;
    if (page.length < 100) break;
  }
  t.equal(listed, COUNT);
  const listMs = performance.now() - started;
  for (let i = 0; i < 200; i++)
    t.ok(
      (await cache.resolve({ user: "ann", name: `p${String((i * 37) % COUNT).padStart(5, "0")}` }, () => {})).kv
        .length === 8,
    );
  const grown = (process.memoryUsage.rss() - before) / 2 ** 20;
  t.comment(
    `${COUNT} prefixes: listed in pages of 100 in ${Math.round(listMs)} ms, resident memory grew by ${grown.toFixed(1)} MiB, thread included`,
  );
  t.ok(grown < 200);
  t.match(cache.stats(), { entries: 200 });
});
