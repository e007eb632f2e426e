/** adapter_model.safetensors as it is read, with the embeddings that PEFT may have saved beside the prompt. */
import { createHash } from "node:crypto";
import { createReadStream, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { embeddingDigests } from "../../src/model/embedding-digests.ts";
import { readAdapterWeights, type BaseEmbeddings } from "../../src/prefixes/adapter-weights.ts";
import { maxAdapterBytes } from "../../src/prefixes/peft.ts";
import { safetensors, type TensorFixture } from "../support/safetensors.ts";
import { floats } from "./adapter-files.ts";
import { SHAPE } from "./records.ts";

const GOLDEN = "test/golden/embedding-layers";
const [WTE, LM_HEAD, PROMPT] = ["base_model.transformer.wte.weight", "base_model.lm_head.weight", "prompt_embeddings"];

async function* inChunks(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

t.test("what PEFT saves with copies of the base's embeddings is read as what it saves without", async (t) => {
  for (const [name, model] of [
    ["f32", "gelu-tanh-unscaled-f32"],
    ["f16", "gelu-tanh-unscaled-f32"],
    ["bf16", "gelu-tanh-unscaled-f32"],
    ["f32-of-f16", "relu-f16-hub"],
  ] as const) {
    const checkpoint = await openCheckpoint(join("test/golden/models", model));
    const embeddings = embeddingDigests(checkpoint);
    const without = readFileSync(join(GOLDEN, name, "without/adapter_model.safetensors"));
    const read = (): AsyncIterable<Uint8Array> =>
      createReadStream(join(GOLDEN, name, "with/adapter_model.safetensors"), { highWaterMark: 1000 });
    for (const attempt of ["first", "second"])
      t.equal(
        Buffer.compare(await readAdapterWeights(read(), { limit: without.length, embeddings }), without),
        0,
        `${name}, ${attempt} time`,
      );
    await checkpoint.close();
  }
});

t.test("embeddings that are not the base's are named", async (t) => {
  const checkpoint = await openCheckpoint("test/golden/models/gelu-tanh-unscaled-f32");
  const embeddings = embeddingDigests(checkpoint);
  const read = (file: string, of = embeddings): Promise<Uint8Array> =>
    readAdapterWeights(createReadStream(join(GOLDEN, file, "adapter_model.safetensors")), {
      limit: 1 << 20,
      embeddings: of,
    });
  await t.rejects(read("changed"), {
    code: "prefix_base_mismatch",
    message: `The base model's own embeddings differ from the adapter's ${LM_HEAD} and ${WTE}: it was trained with other embeddings than those served here. If it was not, save the adapter with save_pretrained(..., save_embedding_layers=False).`,
  });
  await t.rejects(read("resized"), {
    code: "adapter_shape_mismatch",
    message:
      /^base_model\.lm_head\.weight in the adapter has shape \[213, 24\], the base model's has \[211, 24\]: the vocabulary was resized.* save_embedding_layers=False\)\.$/,
  });
  const other = await openCheckpoint("test/golden/models/relu-f16-hub");
  await t.rejects(read("f32/with", embeddingDigests(other)), {
    code: "adapter_shape_mismatch",
    message: /\[331, 48\]/,
  });
  await checkpoint.close();
  await t.rejects(embeddings("F16"), "a checkpoint that can no longer be read");
  await other.close();
});

/** A base model of [64, 8] whose output embeddings are its own. */
const vocabulary = SHAPE.vocabSize * SHAPE.width;
const input: TensorFixture = { dtype: "F32", shape: [SHAPE.vocabSize, SHAPE.width], data: floats(vocabulary) };
const output: TensorFixture = { ...input, data: floats(vocabulary, { 0: 7 }) };
const prompt: TensorFixture = { dtype: "F32", shape: [3, 32], data: floats(96) };
const embeddings: BaseEmbeddings = async (dtype) => {
  if (dtype !== "F32") throw new Error("not asked for here");
  const sha256 = ({ data }: TensorFixture): string => createHash("sha256").update(data).digest("hex");
  return { shape: input.shape, sha256: { "wte.weight": sha256(input), "lm_head.weight": sha256(output) } };
};
const LIMIT = 1000;

t.test("copies in any order and chunks of any size; only the prompt is held", async (t) => {
  const alone = safetensors({ [PROMPT]: prompt });
  for (const names of [
    [PROMPT, WTE, LM_HEAD],
    [LM_HEAD, PROMPT, WTE],
    [WTE, PROMPT],
    [PROMPT, LM_HEAD],
  ]) {
    const file = safetensors(
      Object.fromEntries(names.map((name) => [name, name === WTE ? input : name === LM_HEAD ? output : prompt])),
    );
    t.ok(file.length > 2 * LIMIT);
    for (const size of [1, 7, 8, 100, 1000, file.length]) {
      const read = Buffer.from(await readAdapterWeights(inChunks(file, size), { limit: LIMIT, embeddings }));
      t.ok(
        read.subarray(-prompt.data.length).equals(prompt.data) && read.length < alone.length + 8,
        `${names.join()} by ${size}`,
      );
    }
  }
  const tagged = await readAdapterWeights(
    inChunks(safetensors({ [WTE]: input, [PROMPT]: prompt }, { prefixd_base_fingerprint: "é" }), 50),
    { limit: LIMIT, embeddings },
  );
  t.match(Buffer.from(tagged).toString(), /"__metadata__":\{"prefixd_base_fingerprint":"é"\}/, "metadata stays");
});

t.test("defects of such a file", async (t) => {
  const refused = (file: Uint8Array, code: string, message: RegExp, limit = LIMIT): Promise<unknown> =>
    t.rejects(readAdapterWeights(inChunks(file, 100), { limit, embeddings }), { code, message }, String(message));
  const sound = safetensors({ [WTE]: input, [PROMPT]: prompt });
  await refused(sound.subarray(0, -1), "safetensors_invalid", /beyond the end of the file/);
  await refused(Buffer.concat([sound, Buffer.from("abc")]), "safetensors_invalid", /has 3 bytes after its last tensor/);
  await refused(
    safetensors({ [WTE]: output, [PROMPT]: prompt }),
    "prefix_base_mismatch",
    /differ from the adapter's base_model\.transformer\.wte\.weight: it/,
  );
  await refused(
    safetensors({ [WTE]: { dtype: "F64", shape: [2], data: floats(4) }, [PROMPT]: prompt }),
    "adapter_shape_mismatch",
    /wte\.weight in the adapter has dtype "F64"/,
  );
  await refused(
    safetensors({ [WTE]: { ...input, shape: [vocabulary] }, [PROMPT]: prompt }),
    "adapter_shape_mismatch",
    /has shape \[512\]/,
  );
  await refused(sound, "body_too_large", /larger than 300 bytes/, 300);
  // Neither copies nor small: the header says what it is, however much more would come.
  let taken = 0;
  async function* endless(): AsyncGenerator<Uint8Array> {
    yield safetensors({
      [PROMPT]: prompt,
      "base_model.transformer.h.0.ln_1.bias": input,
      a: input,
      b: input,
      c: input,
    }).subarray(0, 600);
    for (; taken < 100; taken++) yield new Uint8Array(LIMIT);
  }
  await t.rejects(readAdapterWeights(endless(), { limit: LIMIT, embeddings }), {
    code: "adapter_shape_mismatch",
    message:
      /has "base_model\.transformer\.h\.0\.ln_1\.bias", "a", "b" and 1 more besides prompt_embeddings.* save_embedding_layers=False/,
  });
  t.equal(taken, 0, "nothing behind the limit is read");
  await t.rejects(readAdapterWeights(inChunks(new Uint8Array(5000).fill(0xff), 100), { limit: LIMIT, embeddings }), {
    code: "body_too_large",
  });
});

t.test("every other file comes back byte for byte, to be judged as a whole", async (t) => {
  const files = [
    safetensors({ [PROMPT]: prompt }),
    safetensors({ [WTE]: input }),
    safetensors({ lora: input }),
    safetensors({ [PROMPT]: prompt, [WTE]: input, x: input }),
    Buffer.from("PK\x03\x04"),
    new Uint8Array(0),
    new Uint8Array(7),
  ];
  for (const file of files)
    t.equal(
      Buffer.compare(await readAdapterWeights(inChunks(file, 33), { limit: maxAdapterBytes(SHAPE), embeddings }), file),
      0,
    );
  const sound = safetensors({ [WTE]: input, [PROMPT]: prompt });
  t.equal(
    Buffer.compare(await readAdapterWeights(inChunks(sound, 33), { limit: Infinity }), sound),
    0,
    "also where no embeddings are known",
  );
});
