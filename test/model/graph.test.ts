import { createHash } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import t from "tap";
import { gpt2Tensors, openCheckpoint, type Checkpoint } from "../../src/model/checkpoint.ts";
import { parseGpt2Config } from "../../src/model/checkpoint-config.ts";
import { CANDIDATES, GRAPH_VERSION, gpt2Graph } from "../../src/model/gpt2-graph.ts";
import { Gpt2Runner } from "../../src/model/gpt2-runner.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import {
  ARITHMETICS,
  attentionScale,
  graphWeights,
  headTensor,
  paddedVocabulary,
  type Arithmetic,
} from "../../src/model/graph-weights.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { goldenDir, goldenModels } from "../support/model.ts";

const MODEL = goldenDir("gelu-new-f32");
const root = t.testdir();
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

/** A cache folder and a checkpoint for one test. */
async function setup(t: Tap, model = MODEL): Promise<{ cache: string; checkpoint: Checkpoint }> {
  const cache = await mkdtemp(join(root, "cache-"));
  const checkpoint = await openCheckpoint(model);
  t.teardown(() => checkpoint.close());
  return { cache, checkpoint };
}
type Tap = Pick<typeof t, "teardown">;

/** The likeliest token after a prompt: whether a graph works at all. */
async function firstToken(modelPath: string, checkpoint: Checkpoint): Promise<number> {
  const runner = await Gpt2Runner.open(runtime, {
    modelPath,
    shape: checkpoint.shape,
    slots: 1,
    threads: 1,
    device: DEVICES.cpu,
    precision: "fp32",
    bankBytes: 0,
  });
  const output = await runner.prefill(0, 0, Int32Array.of(165), "last");
  const id = output.topIds[0]!;
  await runner.close();
  return id;
}
/** test/golden/models/gelu-new-f32/cases.json, base/0. */
const EXPECTED = 195;

t.test("a graph is built once: later calls find it and touch nothing", async (t) => {
  const { cache, checkpoint } = await setup(t);
  const path = await ensureGraph(checkpoint, cache, "fp32");
  t.equal(await firstToken(path, checkpoint), EXPECTED);
  const folder = dirname(path);
  t.same(await readdir(cache), [basename(folder)], "nothing else is left");
  t.same((await readdir(folder)).sort(), ["device.onnx", "model.onnx", "paged.onnx", "weights.bin"]);
  const old = new Date(2020, 1, 1);
  for (const file of await readdir(folder)) await utimes(join(folder, file), old, old);
  t.equal(await ensureGraph(checkpoint, cache, "fp32"), path);
  for (const file of await readdir(folder))
    t.same((await stat(join(folder, file))).mtime, old, `${file} was not written again`);
});

t.test("each model has a folder of its own, named by what decides its numbers", async (t) => {
  const cache = await mkdtemp(join(root, "cache-"));
  const paths = new Set<string>();
  for (const model of goldenModels()) {
    const { checkpoint } = await setup(t, goldenDir(model));
    const path = await ensureGraph(checkpoint, cache, "fp32");
    t.match(path, `${checkpoint.fingerprint.slice(0, 32)}-fp32-v${GRAPH_VERSION}`);
    paths.add(path);
  }
  t.equal(paths.size, goldenModels().length);

  const moved = join(await mkdtemp(join(root, "moved-")), "elsewhere");
  await mkdir(moved);
  for (const file of ["config.json", "model.safetensors"]) await copyFile(join(MODEL, file), join(moved, file));
  const { checkpoint } = await setup(t, moved);
  t.ok(paths.has(await ensureGraph(checkpoint, cache, "fp32")), "the same weights in another place share it");
});

t.test("builds at the same time do not disturb each other", async (t) => {
  const { cache, checkpoint } = await setup(t);
  const others = await Promise.all(Array.from({ length: 7 }, () => openCheckpoint(MODEL)));
  const paths = await Promise.all([checkpoint, ...others].map((one) => ensureGraph(one, cache, "fp32")));
  t.equal(new Set(paths).size, 1);
  t.equal((await readdir(cache)).length, 1, "the losers' folders are gone");
  t.equal(await firstToken(paths[0]!, checkpoint), EXPECTED);
  for (const other of others) await other.close();
});

t.test("what a killed build left behind is never used", async (t) => {
  const { cache, checkpoint } = await setup(t);
  const path = await ensureGraph(checkpoint, cache, "fp32");
  const folder = dirname(path);
  const whole = await readFile(join(folder, "weights.bin"));
  await rm(folder, { recursive: true });
  // As a kill in the middle leaves it: a folder beside the final one, its weights cut short.
  const leftover = `${folder}.0123.tmp`;
  await mkdir(leftover);
  await writeFile(join(leftover, "weights.bin"), whole.subarray(0, 1000));
  await writeFile(join(leftover, "model.onnx"), "half");
  t.equal(await ensureGraph(checkpoint, cache, "fp32"), path);
  t.same(await readFile(join(folder, "weights.bin")), whole);
  t.equal(await firstToken(path, checkpoint), EXPECTED);

  await rm(path);
  t.equal(await ensureGraph(checkpoint, cache, "fp32"), path, "a folder that somebody half deleted is replaced");
  t.equal(await firstToken(path, checkpoint), EXPECTED);
});

t.test("a build that fails leaves nothing and says why; the next one works", async (t) => {
  const { cache, checkpoint } = await setup(t);
  const broken: Checkpoint = {
    ...checkpoint,
    tensor(name) {
      if (name === "h.1.mlp.c_fc.weight") throw new Error("the disk is gone");
      return checkpoint.tensor(name);
    },
  };
  await t.rejects(ensureGraph(broken, cache, "fp32"), { message: "the disk is gone" });
  t.same(await readdir(cache), []);
  t.equal(await firstToken(await ensureGraph(checkpoint, cache, "fp32"), checkpoint), EXPECTED);
  await t.rejects(ensureGraph(checkpoint, join(MODEL, "config.json"), "fp32"), { code: "ENOTDIR" });
});

t.test(
  "the data file holds every weight as fp32, page aligned, those of queries times the attention's scale, and zeros behind the head's",
  async (t) => {
    for (const model of goldenModels()) {
      const { cache, checkpoint } = await setup(t, goldenDir(model));
      const data = await readFile(join(dirname(await ensureGraph(checkpoint, cache, "fp32")), "weights.bin"));
      let offset = 0;
      let wrong = 0;
      const { width } = checkpoint.config;
      for (const name of gpt2Tensors(checkpoint.config).keys()) {
        const scaled = name.includes("c_attn") ? attentionScale(checkpoint.config, Number(name.split(".")[1])) : 1;
        offset = Math.ceil(offset / 4096) * 4096;
        let index = 0;
        for await (const chunk of checkpoint.tensor(name).chunks(1 << 16)) {
          for (const value of chunk) {
            const expected = index++ % (3 * width) < width ? Math.fround(value * scaled) : value;
            if (!Object.is(data.readFloatLE(offset), expected)) wrong++;
            offset += 4;
          }
        }
        if (name !== headTensor(checkpoint.config)) continue;
        const end = offset + 4 * width * (paddedVocabulary(checkpoint.config) - checkpoint.config.vocabSize);
        if (!data.subarray(offset, end).every((byte) => byte === 0)) wrong++;
        offset = end;
      }
      t.same([wrong, data.length], [0, offset], model);
    }
  },
);

t.test("a changed graph needs a changed GRAPH_VERSION, or caches would serve the old one", async (t) => {
  // Of the last one the vocabulary is so large that devices look for candidates in two levels, and an MLP that they cut the sums of.
  const configs = (
    [
      ["gelu_new", 100, 32],
      ["gelu", 100, 32],
      ["relu", 5000, 2048],
    ] as const
  ).map(([activation_function, vocab_size, n_inner]) =>
    parseGpt2Config({
      model_type: "gpt2",
      activation_function,
      n_layer: 2,
      n_head: 2,
      n_embd: 8,
      n_inner,
      n_positions: 16,
      vocab_size,
      bos_token_id: 0,
      eos_token_id: 0,
    }),
  );
  const known: Record<number, Record<Arithmetic, string>> = {
    9: {
      fp32: "c6f8ef9f266f44292c947b54c53c800702ca9a84bd5a11de548300017aed70da",
      "int8-u8s8": "7c932f5a8c7eca709e9703ddbeccaaf12b506e556fd3c729ea7cddf9165ae8a6",
      "int8-u8u8": "51fc84d4e574924549a0d639f056da38907f0645b74f168dff3cbf66cf0afc07",
      fp16: "8d7244748e75e5d4f4326b4a93debbd8f99fb065a9c9cfe68829b51bda85c3e5",
    },
  };
  for (const arithmetic of ARITHMETICS) {
    const digest = createHash("sha256");
    for (const config of configs) {
      const weights = new Map(
        [...graphWeights(config, arithmetic).keys()].map((name, index) => [
          name,
          { offset: index * 4096, length: 4096 },
        ]),
      );
      for (const kind of ["device", "host", ...(arithmetic.startsWith("int8") ? [] : ["paged" as const])] as const)
        digest.update(
          gpt2Graph(config, { arithmetic, candidates: CANDIDATES, weights, dataFile: "weights.bin", kind }),
        );
    }
    t.equal(
      digest.digest("hex"),
      known[GRAPH_VERSION]?.[arithmetic],
      `${arithmetic}: give the graph a new GRAPH_VERSION, and add its digest here`,
    );
  }
});

t.test("a weight without a place in the data file is a programming error", async (t) => {
  const config = parseGpt2Config({
    model_type: "gpt2",
    n_layer: 1,
    n_head: 2,
    n_embd: 8,
    n_positions: 16,
    vocab_size: 100,
    bos_token_id: 0,
    eos_token_id: 0,
  });
  t.throws(
    () => gpt2Graph(config, { arithmetic: "fp32", candidates: 5, weights: new Map(), dataFile: "x", kind: "device" }),
    /no place in the data file for wte\.weight/,
  );
});

t.test("folders of killed builds go once they are old", async (t) => {
  const { cache, checkpoint } = await setup(t);
  const folder = join(cache, `${checkpoint.fingerprint.slice(0, 32)}-fp32-v${GRAPH_VERSION}`);
  const [old, young] = [`${folder}.old.tmp`, `${folder}.young.tmp`];
  for (const path of [old, young]) await mkdir(path);
  const yesterday = new Date(Date.now() - 86_400_000);
  await utimes(old, yesterday, yesterday);
  await ensureGraph(checkpoint, cache, "fp32");
  t.same((await readdir(cache)).map((name) => join(cache, name)).sort(), [folder, young].sort());
});
