import { mkdtempSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import type { Test } from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { kvElements } from "../../src/kv.ts";
import type { FoldInput, KvTensor } from "../../src/kv.ts";
import { createPrefixCache } from "../../src/prefixes/cache.ts";
import { openLmdbStore } from "../../src/lmdb/prefix-store.ts";
import { createPrefixRegistry, REFUSAL_MS } from "../../src/prefixes/registry.ts";
import type { PrefixRegistry } from "../../src/prefixes/registry-types.ts";
import type { PrefixKey, PrefixStore } from "../../src/prefixes/store.ts";
import { CONFIG, embeddings, floats, upload } from "./adapter-files.ts";
import { DEFECTS, SAME_MESSAGE } from "./defects.ts";
import { BASE, SHAPE } from "./records.ts";

interface Setup {
  readonly registry: PrefixRegistry;
  readonly store: PrefixStore;
  readonly folded: FoldInput[];
  /** Lengths of keys and values that were tried. */
  readonly tried: number[];
  /** What folding gives, by the number of virtual tokens. */
  fold: (length: number) => KvTensor;
  seconds: number;
  over(baseFingerprint: string, requiredBaseName?: string): PrefixRegistry;
}

async function setUp(t: Test): Promise<Setup> {
  const store = await openLmdbStore({ dir: mkdtempSync(join(t.testdir(), "lmdb.")) });
  t.teardown(() => store.close());
  const cache = createPrefixCache({ store, shape: SHAPE, maxBytes: 1 << 20, verifyMs: 0 });
  const setup: Setup = {
    store,
    folded: [],
    tried: [],
    fold: (length) => ({ length, data: new Float32Array(kvElements(SHAPE, length)).fill(0.5) }),
    seconds: 0,
    over: (baseFingerprint, requiredBaseName) =>
      createPrefixRegistry({
        store,
        cache,
        shape: SHAPE,
        baseFingerprint,
        ...(requiredBaseName === undefined ? {} : { requiredBaseName }),
        fold: async (input) => {
          setup.folded.push(input);
          return setup.fold(input.kind === "tokens" ? input.ids.length : input.length);
        },
        tryPrefix: async (kv) => {
          setup.tried.push(kv.length);
          if (kv.data.some((value) => value > 1e38)) throw new PrefixdError("prefix_overflows", "It does.");
        },
        keepVersions: 2,
        clock: () => new Date(setup.seconds++ * 1000),
      }),
    get registry() {
      return this.over(BASE);
    },
  };
  return setup;
}

const key = { user: "ann", name: "poem" };

async function readFile(registry: PrefixRegistry, key: PrefixKey, file: string): Promise<Buffer> {
  const read: Uint8Array[] = [];
  for await (const chunk of (await registry.openFile(key, file)).chunks) read.push(chunk);
  return Buffer.concat(read);
}

function lookUps(registry: PrefixRegistry, key: PrefixKey): (() => Promise<void>)[] {
  return [
    async () => void (await registry.info(key)),
    async () => void (await readFile(registry, key, "adapter_config.json")),
    () => registry.remove(key),
    async () => void (await registry.resolve(key)),
  ];
}

t.test("every defective upload is refused with its own sentence, and nothing stored", async (t) => {
  const { registry, store } = await setUp(t);
  t.ok(DEFECTS.length >= 60, `${DEFECTS.length} defects`);
  const byMessage = new Map<string, string[]>();
  for (const defect of DEFECTS) {
    const started = performance.now();
    const error: unknown = await registry.register(key, defect.make()).catch((error: unknown) => error);
    const { code, message } = error as { code?: string; message: string };
    t.equal(code, defect.code, `${defect.name}: ${message}`);
    t.match(message, defect.message, defect.name);
    t.notMatch(message, /\/(tmp|work|home)\/|undefined|\[object/, defect.name);
    t.ok(performance.now() - started < 1000, `${defect.name}: bounded time`);
    byMessage.set(message, [...(byMessage.get(message) ?? []), defect.name]);
  }
  t.same(
    [...byMessage.values()].filter(({ length }) => length > 1),
    SAME_MESSAGE,
  );
  t.same(await store.list("ann", { limit: 10 }), []);
});

t.test("registers, replaces, lists, gives back and removes", async (t) => {
  const { registry } = await setUp(t);
  const sent = upload();
  const first = await registry.register(key, sent);
  t.match(first, {
    created: true,
    meta: { ...key, kind: "PREFIX_TUNING", length: 3, base: BASE, createdAt: "1970-01-01T00:00:00.000Z" },
  });
  const resolved = await registry.resolve(key);
  t.equal(resolved.digest, first.meta.digest);
  t.equal(resolved.kv.length, 3);
  const again = await registry.register(key, sent);
  t.same(again, { created: false, meta: first.meta }, "sent again: nothing changes");
  t.equal(
    sent.kind === "peft" && Buffer.compare(await readFile(registry, key, "adapter_model.safetensors"), sent.weights),
    0,
  );

  const other = await registry.register(key, upload(CONFIG, embeddings([3, 32], floats(96, { 0: 7 }))), {
    precondition: { ifMatch: [first.meta.digest] },
  });
  t.match(other, { created: false, meta: { createdAt: first.meta.createdAt } });
  t.not(other.meta.updatedAt, first.meta.updatedAt);
  t.not(other.meta.digest, first.meta.digest);
  t.equal((await registry.resolve(key)).kv.data[0], 7);
  const sameTensor = await registry.register(
    key,
    upload({ ...CONFIG, revision: "x" }, embeddings([3, 32], floats(96, { 0: 7 }))),
  );
  t.equal(sameTensor.meta.digest, other.meta.digest);
  t.match(
    String(await readFile(registry, key, "adapter_config.json")),
    /"revision":"x"/,
    "the files are the last ones",
  );

  t.same(
    (await registry.list("ann", { limit: 5 })).map(({ name }) => name),
    ["poem"],
  );
  await t.rejects(registry.remove(key, { ifMatch: [first.meta.digest] }), { code: "precondition_failed" });
  await registry.remove(key);
  for (const gone of lookUps(registry, key)) await t.rejects(gone, { code: "prefix_not_found", status: 404 });
});

t.test("another user's prefix looks like one that does not exist", async (t) => {
  const { registry } = await setUp(t);
  await registry.register(key, upload());
  await t.rejects(registry.resolve({ user: "bob", name: "poem" }), { code: "prefix_not_found" });
  await registry.register({ user: "bob", name: "poem" }, upload());
  await registry.remove({ user: "bob", name: "poem" });
  await t.rejects(registry.resolve({ user: "bob", name: "poem" }), { code: "prefix_not_found" });
  t.equal((await registry.resolve(key)).kv.length, 3);
});

t.test("names", async (t) => {
  const { registry } = await setUp(t);
  for (const name of ["", ".", "..", ".x", "-x", "_x", "a/b", "a b", "é", "a\n", "a\0", "x".repeat(129), "\ud800"]) {
    await t.rejects(
      registry.register({ user: "ann", name }, upload()),
      { code: "invalid_prefix_id" },
      JSON.stringify(name),
    );
    for (const gone of lookUps(registry, { user: "ann", name })) await t.rejects(gone, { code: "prefix_not_found" });
    await t.rejects(registry.list("ann", { after: name, limit: 1 }), { code: "invalid_prefix_id" });
  }
  for (const name of ["a", "0", "A.b_c-d", "x".repeat(128), "constructor"])
    t.ok((await registry.register({ user: "ann", name }, upload())).created, name);
});

t.test("soft and hard prompts are folded, and what comes out is checked", async (t) => {
  const setup = await setUp(t);
  const { registry, folded } = setup;
  const soft = await registry.register(key, upload({ ...CONFIG, peft_type: "P_TUNING" }, embeddings([3, 8])));
  t.match(soft.meta, { kind: "P_TUNING", length: 3 });
  t.match(folded[0], { kind: "embeddings", length: 3 });
  const hard = await registry.register(key, { kind: "hard", ids: Int32Array.of(5, 6), text: "hi there" });
  t.match(hard, { created: false, meta: { kind: "HARD_PROMPT", length: 2 } });
  t.same(folded[1], { kind: "tokens", ids: Int32Array.of(5, 6) });
  t.same(JSON.parse(String(await readFile(registry, key, "prompt.json"))), { text: "hi there", token_ids: [5, 6] });
  t.same(Object.keys((await registry.info(key)).files), ["prompt.json"]);

  const inputs = { kind: "hard", ids: Int32Array.of(1) } as const;
  setup.fold = (length) => ({ length, data: new Float32Array(kvElements(SHAPE, length)).fill(Infinity) });
  await t.rejects(registry.register(key, inputs), {
    code: "prefix_not_finite",
    message: /The base model computes keys or values/,
  });
  setup.fold = (length) => ({ length: length + 1, data: new Float32Array(kvElements(SHAPE, length + 1)) });
  await t.rejects(registry.register(key, inputs), { code: "internal" });
  t.same(await registry.info(key), hard.meta, "the old version stays");
});

t.test("uploaded keys and values are tried in the model; folded ones are not", async (t) => {
  const { registry, tried } = await setUp(t);
  await registry.register(key, upload());
  await registry.register(key, upload({ ...CONFIG, peft_type: "P_TUNING" }, embeddings([3, 8])));
  const { meta } = await registry.register(key, { kind: "hard", ids: Int32Array.of(5, 6) });
  t.same(tried, [3]);
  await t.rejects(registry.register(key, upload(CONFIG, embeddings([3, 32], floats(96, { 9: 3.4e38 })))), {
    code: "prefix_overflows",
  });
  t.same(await registry.info(key), meta, "nothing is stored of it");
});

t.test("a prefix of another base is refused, and can be replaced", async (t) => {
  const setup = await setUp(t);
  await setup.over("old base").register(key, upload());
  await t.rejects(setup.registry.resolve(key), { code: "prefix_base_mismatch", status: 409 });
  t.match(await setup.registry.register(key, upload()), { created: false, meta: { base: BASE } });
  t.equal((await setup.registry.resolve(key)).kv.length, 3);
  t.ok(
    await setup.registry.register(key, upload({ ...CONFIG, prefixd_base_fingerprint: BASE })),
    "its own fingerprint given",
  );
});

t.test("a foreign prefix is refused after a while of its own, whatever the store has", async (t) => {
  const { registry } = await setUp(t);
  const key = { user: "ann", name: "hers" };
  await registry.register(key, upload(CONFIG, embeddings([3, 32], floats(96))));
  const order: string[] = [];
  const asked = async (user: string, name: string): Promise<void> => {
    t.equal(await registry.find({ user, name }, "ben"), null);
    order.push(`${user}/${name}`);
  };
  const sooner = sleep(REFUSAL_MS - 1).then(() => order.push("sooner"));
  const foreign = [asked("ann", "hers"), asked("eve", "hers"), asked("ann", "other"), asked("ann", "no name!")];
  await Promise.all([...foreign, sooner]);
  t.equal(order[0], "sooner");
  await registry.patch(key, { visibility: "shared" });
  t.equal((await registry.find(key, "ben"))?.name, "hers");
});

t.test("earlier versions are listed and put back, by whom and when, for this base only", async (t) => {
  const setup = await setUp(t);
  const { registry } = setup;
  const other = (n: number): ReturnType<typeof upload> => upload(CONFIG, embeddings([3, 32], floats(96, { 0: n })));
  const foreign = (await setup.over("old base").register(key, other(0))).meta;
  const one = (await registry.register(key, other(1), { by: "k1" })).meta;
  const two = (await registry.register(key, other(2), { by: "k2" })).meta;
  t.same(await registry.register(key, other(2), { by: "k3" }), { meta: two, created: false });
  t.same(await registry.versions(key), [two, one, foreign]);
  t.match(two, { updatedBy: "k2" });
  t.equal((await registry.resolve(key)).kv.data[0], 2);
  const back = await registry.restore(key, one.digest, "k4", { ifMatch: [two.digest] });
  t.match(back, { digest: one.digest, updatedBy: "k4", createdAt: foreign.createdAt });
  t.equal((await registry.resolve(key)).kv.data[0], 1, "requests get what was put back");
  t.equal((await readFile(registry, key, "adapter_model.safetensors")).length, one.files["adapter_model.safetensors"]);
  t.same(
    (await registry.versions(key)).map(({ digest }) => digest),
    [one, two, foreign].map(({ digest }) => digest),
  );
  await t.rejects(registry.restore(key, foreign.digest, null), { code: "prefix_base_mismatch" });
  await t.rejects(registry.restore(key, "0".repeat(64), null), { code: "version_not_found", status: 404 });
  await t.rejects(registry.restore(key, two.digest, null, { ifMatch: [two.digest] }), { code: "precondition_failed" });
  await t.rejects(registry.restore({ ...key, name: "none" }, two.digest, null), { code: "prefix_not_found" });
  await registry.patch(key, { shared_with: ["bob"], readable_by: ["cat"] });
  await t.rejects(registry.versions(key, "bob"), { code: "prefix_not_readable" });
  await t.rejects(registry.versions(key, "eve"), { code: "prefix_not_found" });
  t.equal((await registry.versions(key, "cat")).length, 3);
  t.notMatch(JSON.stringify(await registry.versions(key, "cat")), /bob/);
});

t.test("what an adapter says of its base model is kept", async (t) => {
  const { registry, store } = await setUp(t);
  const trained = { ...CONFIG, base_model_name_or_path: "someone/gpt2\ud800", revision: "v1" };
  t.match(await registry.register(key, upload(trained)), {
    meta: { baseName: "someone/gpt2\ufffd", baseRevision: "v1" },
  });
  t.match(await registry.register(key, upload({ ...CONFIG, base_model_name_or_path: "", revision: null })), {
    meta: { baseName: null, baseRevision: null },
  });
  t.match(await registry.register(key, { kind: "hard", ids: Int32Array.of(1) }), {
    meta: { baseName: null, baseRevision: null },
  });

  const { meta, created } = await registry.register({ ...key, name: "old" }, upload(trained));
  t.ok(created);
  const before = { ...meta };
  delete before.baseName;
  delete before.baseRevision;
  const kv = (await store.loadKv(meta, meta.digest))!;
  const files = new Map(
    await Promise.all(
      Object.keys(meta.files).map(async (file) => [file, await readFile(registry, meta, file)] as const),
    ),
  );
  await store.put({ meta: before, kv, files });
  t.notHas(
    await registry.info({ ...key, name: "old" }),
    { baseName: "someone/gpt2\ufffd" },
    "a record of before names were kept",
  );
  t.equal((await registry.resolve({ ...key, name: "old" })).digest, meta.digest);
  t.match(
    await registry.register({ ...key, name: "old" }, upload(trained)),
    { created: false, meta: { baseName: "someone/gpt2\ufffd" } },
    "sent again: now it is",
  );
});

t.test("an adapter that names another base model is refused where names are required", async (t) => {
  const setUpOne = await setUp(t);
  const strict = setUpOne.over(BASE, "openai-community/gpt2");
  const named = (name: string | null): Promise<unknown> =>
    strict.register(key, upload({ ...CONFIG, base_model_name_or_path: name }));
  await t.rejects(named("./other"), {
    code: "prefix_base_name_mismatch",
    status: 409,
    message:
      'The adapter was trained on "./other" (base_model_name_or_path); the base model served here is "openai-community/gpt2".',
  });
  t.same(await setUpOne.store.list("ann", { limit: 1 }), []);
  for (const name of ["gpt2", null]) await named(name);
  await strict.register(key, { kind: "hard", ids: Int32Array.of(1) });
  await setUpOne.registry.register(key, upload({ ...CONFIG, base_model_name_or_path: "./other" }));
  t.equal((await strict.resolve(key)).key, key, "what was registered before is served");
});

t.test("a precondition that fails is known before any work is done", async (t) => {
  const setup = await setUp(t);
  await setup.registry.register(key, upload());
  await t.rejects(
    setup.registry.register(key, { kind: "hard", ids: Int32Array.of(1) }, { precondition: { ifNoneMatch: "*" } }),
    {
      code: "precondition_failed",
      status: 412,
    },
  );
  t.equal(setup.folded.length, 0);
});

t.test("racing registrations leave one that is whole", async (t) => {
  const { registry } = await setUp(t);
  const uploads = Array.from({ length: 12 }, (_, i) => upload(CONFIG, embeddings([3, 32], floats(96, { 0: i }))));
  await Promise.allSettled(
    uploads.flatMap((sent, i) => [registry.register(key, sent), ...(i % 3 === 0 ? [registry.remove(key)] : [])]),
  );
  const gone = { code: "prefix_not_found" };
  const meta = await registry.info(key).catch((error: unknown) => void t.match(error, gone));
  // A removal may have come last: then all of it is gone.
  if (meta === undefined) return void (await t.rejects(registry.resolve(key), gone));
  const { digest, kv } = await registry.resolve(key);
  t.equal(digest, meta.digest);
  const sent = uploads[kv.data[0]!]!;
  t.equal(
    sent.kind === "peft" && Buffer.compare(await readFile(registry, key, "adapter_model.safetensors"), sent.weights),
    0,
    "files and tensors of one upload",
  );
});
