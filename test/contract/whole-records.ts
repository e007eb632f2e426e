import { createHash } from "node:crypto";
import { prefixDigest } from "../../src/prefixes/digest.ts";
import { listedFor } from "../../src/prefixes/sharing.ts";
import { record, SHAPE } from "../prefixes/records.ts";
import type { WithStore } from "./shared-list.ts";

/** The part of PrefixStore's contract about a record's bytes: all of one version, or none. */
export function wholeRecordsContract(withStore: WithStore): void {
  const key = { user: "ann", name: "poem" };

  withStore("bytes of any value and files of any size, empty ones included", async (t, store) => {
    const every = Uint8Array.from({ length: 70_000 }, (_, i) => i * 7);
    const files = new Map([
      ["empty", new Uint8Array(0)],
      ["every", every],
      ["view", Buffer.concat([every, every]).subarray(1, 9)],
      ["a/b c", every.subarray(0, 1)],
    ]);
    const put = await record(key, 1, { files });
    await store.put(put);
    for (const [file, content] of files)
      t.same(bytesOf(await store.loadFile(key, put.meta.digest, file)), bytesOf(content), file);
    // Ranges across chunk borders, wherever the store has them.
    for (const [from, length] of [
      [0, 1],
      [0, 70_000],
      [4_095, 2],
      [65_535, 4_465],
      [69_999, 1],
      [69_990, 100],
      [70_000, 5],
      [80_000, 5],
      [10, 0],
    ] as const) {
      t.same(
        bytesOf(await store.loadFile(key, put.meta.digest, "every", { from, length })),
        bytesOf(every.subarray(from, from + length)),
        `${length} from ${from}`,
      );
    }
    t.same(
      bytesOf(await store.loadFile(key, put.meta.digest, "empty", { from: 0, length: 9 })),
      bytesOf(new Uint8Array(0)),
    );
    t.equal(await store.loadFile(key, put.meta.digest, "constructor", { from: 0, length: 9 }), null);
    t.equal(await store.loadFile(key, "0".repeat(64), "every", { from: 0, length: 9 }), null);
  });

  withStore("8 MB records keep their bytes, and those given out stay as they are", async (t, store) => {
    const shape = { ...SHAPE, layers: 32, heads: 16, headDim: 64 };
    const [one, two] = [await record(key, 1, { shape, length: 32 }), await record(key, 2, { shape, length: 32 })];
    t.equal(one.kv.length, 8 << 20);
    await store.put(one);
    const loaded = await store.loadKv(key, one.meta.digest);
    const small = await store.loadFile(key, one.meta.digest, "adapter_config.json");
    await store.put(two);
    for (let i = 0; i < 5; i++) await store.loadKv(key, two.meta.digest);
    t.equal(await prefixDigest(shape, 32, loaded!), one.meta.digest);
    t.equal(Buffer.from(small!).toString(), '{"seed":1}');
    t.equal(loaded!.byteLength, loaded!.buffer.byteLength, "a buffer of its own");
  });

  withStore("racing PUTs and DELETEs leave one whole version or none", async (t, store, open) => {
    const second = await open();
    t.teardown(() => second.close());
    const puts = await Promise.all(Array.from({ length: 25 }, (_, i) => record(key, i % 5, { length: 1 + (i % 5) })));
    const results = await Promise.allSettled([
      ...puts.map((put, i) => (i % 2 ? store : second).put(put)),
      ...puts.map((_, i) => (i % 2 ? second : store).delete(key)),
    ]);
    for (const result of results) if (result.status === "rejected") t.fail(String(result.reason));
    const meta = await store.head(key);
    t.same(await second.head(key), meta);
    if (meta === null) t.same(await store.list("ann", { limit: 10 }), []);
    else {
      t.equal(await prefixDigest(SHAPE, meta.length, (await second.loadKv(key, meta.digest))!), meta.digest);
      t.same(await store.list("ann", { limit: 10 }), [listedFor("ann", meta)]);
    }
    const winners = await Promise.allSettled(puts.map((put) => store.put(put, { precondition: { ifNoneMatch: "*" } })));
    const created = winners.filter(({ status }) => status === "fulfilled").length;
    t.equal(created, meta === null ? 1 : 0, "at most one creates");
    const digest = (await store.head(key))!.digest;
    const matched = await Promise.allSettled(
      Array.from({ length: 10 }, async (_, i) =>
        store.put(await record(key, 100 + i), { precondition: { ifMatch: [digest] } }),
      ),
    );
    t.equal(matched.filter(({ status }) => status === "fulfilled").length, 1, "one wins an If-Match");
  });

  withStore("readers see whole versions while writers replace them", async (t, store, open) => {
    const reader = await open();
    t.teardown(() => reader.close());
    const versions = [await record(key, 1, { length: 2 }), await record(key, 2, { length: 9 })];
    await store.put(versions[0]!);
    let writing = true;
    const writes = (async () => {
      for (let i = 0; i < 60; i++) await store.put(versions[i % 2]!);
      writing = false;
    })();
    let read = 0;
    while (writing) {
      const meta = (await reader.head(key))!;
      const kv = await reader.loadKv(key, meta.digest);
      if (kv === null) continue;
      read++;
      if ((await prefixDigest(SHAPE, meta.length, kv)) !== meta.digest) t.fail("a torn read");
    }
    await writes;
    t.ok(read > 0, `${read} reads`);
  });

  withStore("data outlive the connection", async (t, store, open) => {
    const put = await record(key, 1);
    await store.put(put);
    const again = await open();
    t.same(await again.head(key), put.meta);
    t.same(bytesOf(await again.loadKv(key, put.meta.digest)), bytesOf(put.kv));
    await again.close();
    await t.rejects(again.head(key), { code: "store_unavailable" }, "closed");
    t.same(await store.head(key), put.meta);
  });
}

/** Digests keep megabytes of differences out of the report. */
export function bytesOf(bytes: Uint8Array | null): string | null {
  return bytes && `${bytes.length} ${createHash("sha256").update(bytes).digest("hex")}`;
}
