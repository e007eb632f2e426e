import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import t from "tap";
import type { ModelShape } from "../../src/kv.ts";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { decodeFloats, parseSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { parsePeftAdapter, peftAdapterInSteps } from "../../src/prefixes/peft.ts";
import type { PeftAdapter } from "../../src/prefixes/peft.ts";
import { CONFIG, embeddings, floats } from "./adapter-files.ts";
import { f32Bytes, rawSafetensors } from "../support/safetensors.ts";
import { BASE, SHAPE } from "./records.ts";

const ROOT = join(import.meta.dirname, "../..");

interface Golden {
  readonly name: string;
  readonly dir: string;
  readonly shape: ModelShape;
}

function shapeOf(configFile: string): ModelShape {
  const config = JSON.parse(readFileSync(configFile, "utf8")) as {
    n_layer: number;
    n_head: number;
    n_embd: number;
    n_positions: number;
    vocab_size: number;
  };
  return {
    layers: config.n_layer,
    heads: config.n_head,
    headDim: config.n_embd / config.n_head,
    width: config.n_embd,
    positions: config.n_positions,
    vocabSize: config.vocab_size,
  };
}

/** Adapters that PEFT itself saved, and the demo's. */
function goldens(): Golden[] {
  const found: Golden[] = [];
  const add = (dir: string, shape: ModelShape): void => {
    for (const name of readdirSync(dir)) {
      if (existsSync(join(dir, name, "adapter_config.json"))) found.push({ name, dir: join(dir, name), shape });
    }
  };
  const models = join(ROOT, "test/golden/models");
  for (const model of readdirSync(models))
    add(join(models, model, "adapters"), shapeOf(join(models, model, "config.json")));
  add(join(ROOT, "prefixes"), shapeOf(join(ROOT, "models/demo/config.json")));
  return found;
}

function parse(config: Uint8Array | object, weights: Uint8Array, shape = SHAPE, base = BASE): PeftAdapter {
  return parsePeftAdapter(
    config instanceof Uint8Array ? config : Buffer.from(JSON.stringify(config)),
    weights,
    shape,
    base,
  );
}

t.test("adapters saved by PEFT", async (t) => {
  const all = goldens();
  const demo = await openCheckpoint(join(ROOT, "models/demo"));
  await demo.close();
  t.ok(all.length >= 30, `${all.length} adapters`);
  for (const { name, dir, shape } of all) {
    const config = readFileSync(join(dir, "adapter_config.json"));
    const weights = readFileSync(join(dir, "adapter_model.safetensors"));
    const { peft_type: type, num_virtual_tokens: length } = JSON.parse(config.toString()) as {
      peft_type: string;
      num_virtual_tokens: number;
    };
    if (type === "MULTITASK_PROMPT_TUNING") {
      t.throws(() => parse(config, weights, shape), { code: "adapter_type_unsupported", message: /task id/ }, name);
      continue;
    }
    // Those that prefixd has trained name their base.
    const adapter = parse(config, weights, shape, dirname(dir) === join(ROOT, "prefixes") ? demo.fingerprint : BASE);
    t.equal(adapter.peftType, type, name);
    const { dtype, start, end } = parseSafetensorsHeader(weights, weights.length, {
      maxHeaderBytes: 1 << 20,
    }).tensors.get("prompt_embeddings")!;
    const flat = decodeFloats(dtype, weights.subarray(start, end));
    if ("fold" in adapter)
      t.same({ length: adapter.fold.length, data: adapter.fold.data }, { length, data: flat }, `${name}: embeddings`);
    else
      t.ok(
        adapter.kv.length === length && equalsFlat(adapter.kv.data, flat, length, shape),
        `${name}: keys and values`,
      );
  }
});

/** Index by index as in the definition: key[l][h,p,e] = W[p, 2l*d + h*D + e], value[l][h,p,e] = W[p, (2l+1)*d + h*D + e]. */
function equalsFlat(
  data: Float32Array,
  flat: Float32Array,
  length: number,
  { layers, heads, headDim, width }: ModelShape,
): boolean {
  let at = 0;
  for (let layer = 0; layer < layers; layer++)
    for (const part of [0, 1])
      for (let head = 0; head < heads; head++)
        for (let p = 0; p < length; p++)
          for (let e = 0; e < headDim; e++)
            if (data[at++] !== flat[p * layers * 2 * width + (2 * layer + part) * width + head * headDim + e])
              return false;
  return at === data.length && at === flat.length;
}

t.test("a large adapter is read in steps, to the same numbers and the same findings", (t) => {
  const shape = { ...SHAPE, layers: 48, heads: 16, headDim: 64, width: 1024, positions: 64 };
  const [length, columns] = [40, 48 * 2 * 1024];
  const values = Float32Array.from({ length: length * columns }, (_, index) => Math.sin(index));
  const config = { ...CONFIG, num_virtual_tokens: length, token_dim: 1024, num_layers: 48, num_attention_heads: 16 };
  const steps = peftAdapterInSteps(
    Buffer.from(JSON.stringify(config)),
    embeddings([length, columns], f32Bytes(values)),
    shape,
    BASE,
  );
  let count = 0;
  let step = steps.next();
  for (; step.done !== true; step = steps.next()) count++;
  t.equal(count, 7, "8 chunks of 5 rows");
  t.ok("kv" in step.value && equalsFlat(step.value.kv.data, values, length, shape));
  values[33 * columns + 17] = NaN;
  t.throws(() => parse(config, embeddings([length, columns], f32Bytes(values)), shape), {
    code: "prefix_not_finite",
    message: /NaN in row 33, column 17;/,
  });
  t.end();
});

t.test("what may be missing, null or unknown in adapter_config.json", (t) => {
  const sound = embeddings([3, 32]);
  for (const config of [
    { peft_type: "PREFIX_TUNING" },
    {
      ...CONFIG,
      task_type: null,
      num_virtual_tokens: null,
      num_layers: null,
      num_attention_heads: null,
      token_dim: null,
      num_transformer_submodules: null,
    },
    {
      ...CONFIG,
      prefix_projection: true,
      invented_later: { a: [1] },
      modules_to_save: [],
      prefixd_base_fingerprint: BASE,
    },
  ]) {
    const adapter = parse(config, sound);
    t.ok("kv" in adapter && adapter.kv.length === 3);
  }
  t.end();
});

t.test("what Python's json module reads, where it does not matter", (t) => {
  const sound = embeddings([3, 32]);
  for (const text of [
    `\ufeff${JSON.stringify(CONFIG)}`,
    '{"peft_type":"PREFIX_TUNING","encoder_hidden_size":NaN,"list":[Infinity,-Infinity,1e999,-1e999]}',
  ]) {
    t.match(parse(Buffer.from(text), sound), { kv: { length: 3 } }, text.slice(0, 40));
  }
  t.throws(
    () =>
      parse(
        CONFIG,
        rawSafetensors(
          '{"__metadata__":{},"prompt_embeddings":{"dtype":"F32","shape":[NaN,32],"data_offsets":[0,4]}}',
          new Uint8Array(4),
        ),
      ),
    { code: "safetensors_invalid" },
    "a safetensors header has none of it",
  );
  t.end();
});

t.test("every served type, dtype and length up to the last", (t) => {
  for (const type of ["PREFIX_TUNING", "CARTRIDGE"])
    t.match(parse({ peft_type: type }, embeddings([1, 32])), { kv: { length: 1 } });
  for (const type of ["PROMPT_TUNING", "P_TUNING", "CPT"])
    t.match(parse({ peft_type: type }, embeddings([31, 8])), { fold: { kind: "embeddings", length: 31 } });
  const halves = embeddings(
    [1, 32],
    Uint8Array.from({ length: 64 }, (_, i) => (i % 2 ? 0x3c : 0)),
    "F16",
  );
  t.match(parse({ peft_type: "PREFIX_TUNING" }, halves), { kv: { data: new Float32Array(64 / 2).fill(1) } });
  const denormal = parse(
    { peft_type: "PREFIX_TUNING" },
    embeddings([1, 32], floats(32, { 0: 1e-45, 1: 3.4e38, 2: -0 })),
  );
  t.ok(
    "kv" in denormal && denormal.kv.data[0] === Math.fround(1e-45) && Object.is(denormal.kv.data[2], -0),
    "extremes are kept",
  );
  t.end();
});
