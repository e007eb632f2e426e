import { mkdir, readdir, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import t from "tap";
import { type CheckpointTensor, openCheckpoint } from "../../src/model/checkpoint.ts";
import { type FixtureTensor, f32, safetensorsBytes, TINY, tinyTensors, writeCheckpoint } from "./checkpoint-fixture.ts";

async function values(tensor: CheckpointTensor, maxBytes = 1 << 20): Promise<number[]> {
  const all: number[] = [];
  for await (const chunk of tensor.chunks(maxBytes)) {
    if (chunk.byteLength > maxBytes) throw new Error("chunk too large");
    for (const value of chunk) all.push(value);
  }
  return all;
}

function floats({ bytes }: FixtureTensor): number[] {
  return [...new Float32Array(bytes.buffer)];
}

t.test("the demo model", async (t) => {
  const checkpoint = await openCheckpoint("models/demo");
  t.same(checkpoint.shape, { layers: 4, heads: 8, headDim: 32, width: 256, positions: 512, vocabSize: 4096 });
  t.same(checkpoint.config.eosIds, [4095]);
  t.equal(checkpoint.config.inner, 1024);
  t.match(checkpoint.fingerprint, /^[0-9a-f]{64}$/);
  t.equal(checkpoint.names.length, 52);
  const wte = checkpoint.tensor("wte.weight");
  t.same([wte.dtype, wte.shape], ["F16", [4096, 256]]);
  const whole = await values(wte, 8 << 20);
  t.equal(whole.length, 4096 * 256);
  const chunks = await values(wte, 100_000);
  t.ok(chunks.length === whole.length && chunks.every((value, i) => Object.is(value, whole[i])), "the same in chunks");
  await checkpoint.close();
});

t.test("what transformers saves, in each of its layouts", async (t) => {
  for (const name of ["gelu-new-f32", "relu-f16-hub", "gelu-bf16-sharded", "gelu-tanh-unscaled-f32"]) {
    const checkpoint = await openCheckpoint(join("test/golden/models", name));
    t.equal(checkpoint.config.tieWordEmbeddings, true, name);
    t.equal(checkpoint.names.length, 4 + 12 * checkpoint.config.layers);
    t.same(checkpoint.config.eosIds, [checkpoint.config.vocabSize - 1]);
    await checkpoint.close();
  }
});

t.test("names with and without transformer., causal buffers, shards: one model, one fingerprint", async (t) => {
  const dir = t.testdir();
  const plain = tinyTensors("");
  const wide = new Map([
    ...plain,
    ["h.0.attn.bias", { dtype: "U8", shape: [1, 1, 6, 6], bytes: new Uint8Array(36) }],
    ["h.1.attn.bias", { dtype: "BOOL", shape: [1, 1, 6, 6], bytes: new Uint8Array(36) }],
    ["h.1.attn.masked_bias", f32([], -1e4)],
  ]);
  const prefixed = [...tinyTensors()];
  const shards = [new Map(prefixed.slice(0, 9)), new Map(prefixed.slice(9))] as const;
  const weightMap = Object.fromEntries(
    shards.flatMap((shard, i) => [...shard.keys()].map((name) => [name, `model-0000${i}-of-00002.safetensors`])),
  );
  const folders = [
    await writeCheckpoint(join(dir, "a"), {
      "config.json": TINY,
      "model.safetensors": safetensorsBytes(tinyTensors()),
    }),
    await writeCheckpoint(join(dir, "b"), {
      "config.json": { ...TINY, n_ctx: 6 },
      "model.safetensors": safetensorsBytes(wide),
    }),
    await writeCheckpoint(join(dir, "c"), {
      "config.json": TINY,
      "model-00000-of-00002.safetensors": safetensorsBytes(shards[0]),
      "model-00001-of-00002.safetensors": safetensorsBytes(shards[1]),
      "model.safetensors.index.json": { metadata: {}, weight_map: weightMap },
    }),
    await writeCheckpoint(join(dir, "d"), {
      "config.json": TINY,
      "model.safetensors": safetensorsBytes(new Map([...tinyTensors(), ["lm_head.weight", f32([11, 8], 0)]])),
    }),
  ];
  // As in the Hugging Face cache, where files are links to blobs.
  await mkdir(join(dir, "e"));
  for (const name of ["config.json", "model.safetensors"]) await symlink(join(dir, "a", name), join(dir, "e", name));
  const fingerprints = new Set<string>();
  for (const folder of [...folders, join(dir, "e")]) {
    const checkpoint = await openCheckpoint(folder);
    fingerprints.add(checkpoint.fingerprint);
    t.equal(checkpoint.config.tieWordEmbeddings, true);
    t.equal(checkpoint.names.includes("lm_head.weight"), false);
    for (const [name, tensor] of plain)
      t.same(await values(checkpoint.tensor(name), 48), floats(tensor), `${folder} ${name}`);
    t.throws(() => checkpoint.tensor("h.9.ln_1.bias"), { name: "ModelLoadError", message: /h\.9\.ln_1\.bias/ });
    await checkpoint.close();
  }
  t.equal(fingerprints.size, 1);
});

t.test("the fingerprint depends on weights and on what the configuration computes", async (t) => {
  const dir = t.testdir();
  const changed = tinyTensors();
  changed.set("transformer.ln_f.bias", f32([8], 99));
  const variants = [
    [TINY, tinyTensors()],
    [TINY, changed],
    [{ ...TINY, layer_norm_epsilon: 1e-6 }, tinyTensors()],
    [{ ...TINY, activation_function: "relu" }, tinyTensors()],
    [{ ...TINY, n_head: 4 }, tinyTensors()],
  ] as const;
  const fingerprints = new Set<string>();
  for (const [i, [config, tensors]] of variants.entries()) {
    const checkpoint = await openCheckpoint(
      await writeCheckpoint(join(dir, String(i)), {
        "config.json": config,
        "model.safetensors": safetensorsBytes(tensors),
      }),
    );
    fingerprints.add(checkpoint.fingerprint);
    await checkpoint.close();
  }
  t.equal(fingerprints.size, variants.length);
});

t.test("an untied head", async (t) => {
  const dir = t.testdir();
  const head = f32([11, 8], 55);
  const withHead = safetensorsBytes(new Map([...tinyTensors(), ["lm_head.weight", head]]));
  for (const tie of [false, true]) {
    const folder = await writeCheckpoint(join(dir, String(tie)), {
      "config.json": { ...TINY, tie_word_embeddings: tie },
      "model.safetensors": withHead,
    });
    const checkpoint = await openCheckpoint(folder);
    t.equal(checkpoint.config.tieWordEmbeddings, false, "a head that differs is not tied, as in transformers");
    t.same(await values(checkpoint.tensor("lm_head.weight")), floats(head));
    await checkpoint.close();
  }
  const missing = await writeCheckpoint(join(dir, "missing"), {
    "config.json": { ...TINY, tie_word_embeddings: false },
    "model.safetensors": safetensorsBytes(tinyTensors()),
  });
  await t.rejects(openCheckpoint(missing), { code: "model_invalid", message: 'tensor "lm_head.weight" is missing' });
});

t.test("stored dtypes are widened exactly", async (t) => {
  const bytes: Record<string, Uint8Array> = {
    F16: new Uint8Array(Uint16Array.from([0x3c00, 0xc000, 0x3555, 0x0001, 0x7bff, 0, 0x8000, 0x3800]).buffer),
    BF16: new Uint8Array(Uint16Array.from([0x3f80, 0xc000, 0x3eab, 0x0001, 0x7f7f, 0, 0x8000, 0x3f00]).buffer),
  };
  const expected: Record<string, number[]> = {
    F16: [1, -2, 0.333251953125, 2 ** -24, 65504, 0, -0, 0.5],
    BF16: [1, -2, 0.333984375, 9.183549615799121e-41, 3.3895313892515355e38, 0, -0, 0.5],
  };
  for (const [dtype, raw] of Object.entries(bytes)) {
    const tensors = tinyTensors();
    tensors.set("transformer.ln_f.bias", { dtype, shape: [8], bytes: raw });
    const checkpoint = await openCheckpoint(
      await writeCheckpoint(t.testdir(), { "config.json": TINY, "model.safetensors": safetensorsBytes(tensors) }),
    );
    t.same(await values(checkpoint.tensor("ln_f.bias"), 12), expected[dtype], dtype);
    await checkpoint.close();
  }
});

t.test("digests are cached until a file changes", async (t) => {
  const dir = t.testdir();
  const cacheDir = join(dir, "cache", "deep");
  const folder = await writeCheckpoint(join(dir, "m"), {
    "config.json": TINY,
    "model.safetensors": safetensorsBytes(tinyTensors()),
  });
  const open = async (): Promise<string> => {
    const checkpoint = await openCheckpoint(folder, { cacheDir });
    await checkpoint.close();
    return checkpoint.fingerprint;
  };
  const first = await open();
  const [entry] = await readdir(cacheDir);
  t.ok(entry);
  t.equal(await open(), first);
  await writeFile(join(cacheDir, entry ?? ""), "torn");
  t.equal(await open(), first, "a damaged entry is made anew");
  const changed = tinyTensors();
  changed.set("transformer.ln_f.bias", f32([8], 99));
  await writeFile(join(folder, "model.safetensors"), safetensorsBytes(changed));
  t.not(await open(), first);
  await rm(cacheDir, { recursive: true });
  await writeFile(cacheDir, "a file where the folder should be");
  t.match(await open(), /^[0-9a-f]{64}$/, "a cache that cannot be written is no error");
});

t.test("what is wrong is named", async (t) => {
  const good = safetensorsBytes(tinyTensors());
  const altered = (change: (tensors: Map<string, FixtureTensor>) => void): Buffer => {
    const tensors = tinyTensors();
    change(tensors);
    return safetensorsBytes(tensors);
  };
  const index = (weightMap: unknown): Record<string, object> => ({
    "config.json": TINY,
    "model.safetensors.index.json": { weight_map: weightMap },
  });
  const cases: [string, Record<string, object>, string, RegExp][] = [
    ["no config", { "model.safetensors": good }, "model_not_found", /config\.json/],
    [
      "broken config",
      { "config.json": Buffer.from("{"), "model.safetensors": good },
      "model_invalid",
      /config\.json is not valid JSON/,
    ],
    ["no weights", { "config.json": TINY }, "model_not_found", /neither model\.safetensors nor/],
    [
      "pickle",
      { "config.json": TINY, "pytorch_model.bin": Buffer.from("x") },
      "model_unsupported",
      /never read.*safe_serialization/s,
    ],
    [
      "missing tensor",
      { "config.json": TINY, "model.safetensors": altered((m) => m.delete("transformer.h.1.mlp.c_fc.bias")) },
      "model_invalid",
      /"h\.1\.mlp\.c_fc\.bias" is missing/,
    ],
    [
      "shape",
      {
        "config.json": TINY,
        "model.safetensors": altered((m) => m.set("transformer.h.0.attn.c_attn.weight", f32([24, 8]))),
      },
      "model_invalid",
      /"h\.0\.attn\.c_attn\.weight" has shape \[24,8\].*\[8,24\]/,
    ],
    [
      "integer weights",
      {
        "config.json": TINY,
        "model.safetensors": altered((m) =>
          m.set("transformer.ln_f.bias", { dtype: "I8", shape: [8], bytes: new Uint8Array(8) }),
        ),
      },
      "model_unsupported",
      /"ln_f\.bias" has dtype I8/,
    ],
    [
      "more layers than the config",
      { "config.json": { ...TINY, n_layer: 1 }, "model.safetensors": good },
      "model_invalid",
      /"h\.1\..*not part/,
    ],
    [
      "stored twice",
      { "config.json": TINY, "model.safetensors": altered((m) => m.set("ln_f.bias", f32([8]))) },
      "model_invalid",
      /"ln_f\.bias" is stored twice/,
    ],
    [
      "cut file",
      { "config.json": TINY, "model.safetensors": good.subarray(0, good.length - 8) },
      "model_invalid",
      /model\.safetensors/,
    ],
    [
      "tiny file",
      { "config.json": TINY, "model.safetensors": Buffer.from("abc") },
      "model_invalid",
      /model\.safetensors/,
    ],
    [
      "huge header",
      { "config.json": TINY, "model.safetensors": Buffer.from("ffffffffffffff7f7b7d", "hex") },
      "model_invalid",
      /model\.safetensors/,
    ],
    [
      "index leaves the folder",
      index({ a: "../x.safetensors" }),
      "model_invalid",
      /"\.\.\/x\.safetensors" is not the name/,
    ],
    ["index has an absolute path", index({ a: "/etc/passwd" }), "model_invalid", /passwd/],
    ["index has no map", index(undefined), "model_invalid", /weight_map/],
    ["index names an absent shard", index({ a: "x.safetensors" }), "model_not_found", /x\.safetensors/],
    [
      "index is wrong about a shard",
      { ...index({ "transformer.a": "x.safetensors" }), "x.safetensors": good },
      "model_invalid",
      /"transformer\.a" is not in x\.safetensors/,
    ],
  ];
  for (const [what, files, code, message] of cases) {
    await t.rejects(
      openCheckpoint(await writeCheckpoint(t.testdir(), files)),
      { name: "ModelLoadError", code, message },
      what,
    );
  }
  await t.rejects(openCheckpoint("/nonexistent/folder"), { code: "model_not_found" });
});
