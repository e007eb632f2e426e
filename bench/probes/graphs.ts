/** Variants of the device graph for probes: the head's forms, attention over slots or over pages. */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Gpt2Config } from "../../src/model/checkpoint.ts";
import { attentionScale, graphWeights, headTensor, rowsInFile } from "../../src/model/graph-weights.ts";
import { DataType, OnnxGraph, type ExternalRange } from "../../src/model/onnx-writer.ts";

export interface Variant {
  readonly attention: "slots" | "pages";
  /**
   * flat: TopK over the vocabulary and ReduceMax. levels: two TopKs, and the likeliest by its id. levels32: ids as
   * int32 from a float table (WebGPU). none: no TopK, to measure its cost.
   */
  readonly head: "flat" | "levels" | "levels32" | "none";
  readonly half: boolean;
}

const ALIGNMENT = 4096;

function ranges(config: Gpt2Config, half: boolean): Map<string, ExternalRange> {
  const found = new Map<string, ExternalRange>();
  let end = 0;
  for (const [name, { dims }] of graphWeights(config, half ? "fp16" : "fp32")) {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const length = dims.reduce((a, b) => a * b, 1) * (half ? 2 : 4);
    found.set(name, { offset, length });
    end = offset + (length / dims[0]!) * rowsInFile(config, name, dims[0]!);
  }
  return found;
}

/** Writes the variant beside the built graph, whose weights it shares; returns its path. */
export function writeVariant(config: Gpt2Config, builtPath: string, variant: Variant): string {
  const path = join(dirname(builtPath), `probe-${variant.attention}-${variant.head}.onnx`);
  writeFileSync(path, encode(config, variant));
  return path;
}

function encode(config: Gpt2Config, { attention, head, half }: Variant): Uint8Array {
  const { layers, heads, headDim, width, vocabSize, positions } = config;
  const type = half ? DataType.float16 : DataType.float;
  const graph = new OnnxGraph("gpt2", "weights.bin");
  const at = ranges(config, half);
  for (const [name, weight] of graphWeights(config, half ? "fp16" : "fp32"))
    graph.external(name, weight.type, weight.dims, at.get(name)!);
  const pages = attention === "pages";
  const tokens = pages ? ["tokens"] : ["batch", "sequence"];
  graph.input("input_ids", DataType.int32, tokens);
  graph.input("position_ids", DataType.int32, tokens);
  if (pages) {
    graph.input("cumulative_lengths", DataType.int32, ["rows_and_one"]);
    graph.input("past_lengths", DataType.int32, ["rows"]);
    graph.input("block_table", DataType.int32, ["rows", "columns"]);
    graph.input("bounds", DataType.int32, [2]);
  } else {
    graph.input("seqlens_k", DataType.int32, ["batch"]);
    graph.input("total_sequence_length", DataType.int32, [1]);
  }
  graph.input("output_rows", DataType.int32, ["outputs"]);
  graph.node("Gather", ["wte.weight", "input_ids"], ["token_embeds"]);
  graph.node("Gather", ["wpe.weight", "position_ids"], ["position_embeds"]);
  graph.node("Add", ["token_embeds", "position_embeds"], ["embedded"]);
  const epsilon = { float: config.layerNormEpsilon };
  let [residual, normed] = ["embedded", "normed"];
  graph.node("LayerNormalization", [residual, "h.0.ln_1.weight", "h.0.ln_1.bias"], [normed], { axis: -1, epsilon });
  const addAndNorm = (delta: string, bias: string, norm: string, name: string): void => {
    graph.contrib(
      "SkipLayerNormalization",
      [residual, delta, `${norm}.weight`, `${norm}.bias`, bias],
      [`${name}.normed`, "", "", `${name}.residual`],
      { epsilon },
    );
    [residual, normed] = [`${name}.residual`, `${name}.normed`];
  };
  const cacheDims = pages ? ["blocks", "block", heads, headDim] : ["batch", heads, positions, headDim];
  for (let layer = 0; layer < layers; layer++) {
    const name = `h.${layer}`;
    for (const part of ["key", "value"]) {
      graph.input(`past_${part}.${layer}`, type, cacheDims);
      graph.output(`present_${part}.${layer}`, type, cacheDims);
    }
    graph.node("MatMul", [normed, `${name}.attn.c_attn.weight`], [`${name}.qkv_unbiased`]);
    graph.node("Add", [`${name}.qkv_unbiased`, `${name}.attn.c_attn.bias`], [`${name}.qkv`]);
    const scale = { float: half ? attentionScale(config, layer) : 1 };
    const outs = [`${name}.attended`, `present_key.${layer}`, `present_value.${layer}`];
    const caches = [`past_key.${layer}`, `past_value.${layer}`];
    if (pages)
      graph.contrib(
        "PagedAttention",
        [
          `${name}.qkv`,
          "",
          "",
          ...caches,
          "cumulative_lengths",
          "past_lengths",
          "block_table",
          ...new Array<string>(8).fill(""),
          "bounds",
        ],
        outs,
        { num_heads: heads, kv_num_heads: heads, scale },
      );
    else
      graph.contrib(
        "GroupQueryAttention",
        [`${name}.qkv`, "", "", ...caches, "seqlens_k", "total_sequence_length"],
        outs,
        { num_heads: heads, kv_num_heads: heads, scale },
      );
    graph.node("MatMul", [`${name}.attended`, `${name}.attn.c_proj.weight`], [`${name}.attn_out`]);
    addAndNorm(`${name}.attn_out`, `${name}.attn.c_proj.bias`, `${name}.ln_2`, `${name}.mlp`);
    graph.node("MatMul", [normed, `${name}.mlp.c_fc.weight`], [`${name}.fc`]);
    graph.contrib("FastGelu", [`${name}.fc`, `${name}.mlp.c_fc.bias`], [`${name}.act`]);
    graph.node("MatMul", [`${name}.act`, `${name}.mlp.c_proj.weight`], [`${name}.mlp_out`]);
    addAndNorm(
      `${name}.mlp_out`,
      `${name}.mlp.c_proj.bias`,
      layer + 1 < layers ? `h.${layer + 1}.ln_1` : "ln_f",
      `${name}.out`,
    );
  }
  if (pages) graph.node("Gather", [normed, "output_rows"], ["output_hidden"], { axis: 0 });
  else {
    graph.constant("token_rows", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(width)));
    graph.node("Reshape", [normed, "token_rows"], ["hidden_rows"]);
    graph.node("Gather", ["hidden_rows", "output_rows"], ["output_hidden"], { axis: 0 });
  }
  const raw = half ? "logits_half" : "logits";
  graph.node("Gemm", ["output_hidden", headTensor(config)], [raw], { transB: 1 });
  if (half) graph.node("Cast", [raw], ["logits"], { to: DataType.float });
  graph.output("logits", DataType.float, ["outputs", vocabSize]);
  tail(graph, head, vocabSize);
  return graph.encode();
}

/** 29 * 1733 = 50257. */
function split(vocabSize: number): [number, number] {
  for (let parts = 24; parts < 64; parts++) if (vocabSize % parts === 0) return [parts, vocabSize / parts];
  throw new Error(`no split of ${vocabSize}`);
}

function tail(graph: OnnxGraph, head: Variant["head"], vocabSize: number): void {
  if (head === "none") return;
  graph.constant("candidates", DataType.int64, [1], BigInt64Array.of(64n));
  graph.constant("last", DataType.int64, [1], BigInt64Array.of(-1n));
  graph.node("Softmax", ["logits"], ["probabilities"], { axis: -1 });
  const ids = head === "levels32" ? DataType.int32 : DataType.int64;
  graph.output("top_logits", DataType.float, ["outputs", 64]);
  graph.output("top_ids", ids, ["outputs", 64]);
  graph.output("top_probability", DataType.float, ["outputs", 1]);
  if (head === "flat") {
    graph.node("TopK", ["logits", "candidates"], ["top_logits", "top_ids"], { axis: -1, largest: 1, sorted: 1 });
    graph.node("ReduceMax", ["probabilities", "last"], ["top_probability"], { keepdims: 1 });
    return;
  }
  const [parts, size] = split(vocabSize);
  graph.constant("part_rows", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(size)));
  graph.constant("part_shape", DataType.int64, [3], BigInt64Array.of(-1n, BigInt(parts), 64n));
  graph.constant("flat_shape", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(parts * 64)));
  graph.node("Reshape", ["logits", "part_rows"], ["logit_parts"]);
  graph.node("TopK", ["logit_parts", "candidates"], ["part_values", "part_ids"], { axis: -1, largest: 1, sorted: 1 });
  graph.node("Reshape", ["part_values", "flat_shape"], ["finalists"]);
  graph.node("TopK", ["finalists", "candidates"], ["top_logits", "top_at"], { axis: -1, largest: 1, sorted: 1 });
  if (head === "levels") {
    graph.constant(
      "offsets",
      DataType.int64,
      [1, parts, 1],
      BigInt64Array.from({ length: parts }, (_, part) => BigInt(part * size)),
    );
    graph.node("Reshape", ["part_ids", "part_shape"], ["part_ids_3d"]);
    graph.node("Add", ["part_ids_3d", "offsets"], ["ids_3d"]);
    graph.node("Reshape", ["ids_3d", "flat_shape"], ["finalist_ids"]);
    graph.node("GatherElements", ["finalist_ids", "top_at"], ["top_ids"], { axis: 1 });
    graph.constant("zero", DataType.int64, [1], BigInt64Array.of(0n));
    graph.constant("one", DataType.int64, [1], BigInt64Array.of(1n));
    graph.constant("axis1", DataType.int64, [1], BigInt64Array.of(1n));
    graph.node("Slice", ["top_ids", "zero", "one", "axis1"], ["likeliest"]);
    graph.node("GatherElements", ["probabilities", "likeliest"], ["top_probability"], { axis: 1 });
    return;
  }
  // Ids from a float table, exact up to 2^24: for devices with int64 as an index only.
  graph.constant(
    "iota",
    DataType.float,
    [size],
    Float32Array.from({ length: size }, (_, id) => id),
  );
  graph.node("Gather", ["iota", "part_ids"], ["part_ids_f"], { axis: 0 });
  graph.constant(
    "offsets_f",
    DataType.float,
    [1, parts, 1],
    Float32Array.from({ length: parts }, (_, part) => part * size),
  );
  graph.node("Reshape", ["part_ids_f", "part_shape"], ["part_ids_3d"]);
  graph.node("Add", ["part_ids_3d", "offsets_f"], ["ids_3d"]);
  graph.node("Reshape", ["ids_3d", "flat_shape"], ["finalist_ids"]);
  graph.node("GatherElements", ["finalist_ids", "top_at"], ["top_ids_f"], { axis: 1 });
  graph.node("Cast", ["top_ids_f"], ["top_ids"], { to: DataType.int32 });
  graph.node("ReduceMax", ["probabilities", "last"], ["top_probability"], { keepdims: 1 });
}
