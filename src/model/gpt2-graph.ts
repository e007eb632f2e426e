/**
 * GPT-2 as an ONNX graph for continuous batching: pre-LN decoder (transformers' modeling_gpt2.py), attention as ONNX Runtime's
 * GroupQueryAttention over a KV cache that is updated in place.
 *
 * Inputs   input_ids, position_ids  int64 [b, s]; an id of -1 takes its embedding from soft_embeds
 *          soft_embeds              f32 [b|1, s|1, width], broadcast
 *          seqlens_k                int32 [b], tokens already in the cache + s - 1
 *          total_sequence_length    int32 [1], the largest of the rows' totals
 *          past_{key,value}.{l}     f32 [b, H, M, D], bound to the same memory as present_{key,value}.{l}
 * Outputs  logits                   f32 [b, V] of each row's last token
 *          top_logits, top_ids      f32, int32 [b, K], descending, ties by id
 *          log_sum_exp              f32 [b, 1]
 *
 * GroupQueryAttention takes b > 1 only with s = 1, and s > 1 with a past only at b = 1.
 */
import type { Gpt2Config } from "./checkpoint.ts";
import { graphWeights, headTensor, type Precision } from "./graph-weights.ts";
import { linearLayers } from "./linear.ts";
import { DataType, OnnxGraph, type ExternalRange } from "./onnx-writer.ts";

/** Part of the cache key of a built graph: change it whenever the graph changes. */
export const GRAPH_VERSION = 1;

/** More candidates than transformers' default top_k of 50, so that default sampling never needs all logits. */
export const CANDIDATES = 64;

export interface GraphOptions {
  readonly precision: Precision;
  /** K of the candidates, at most the vocabulary. */
  readonly candidates: number;
  /** Where each of `graphWeights` lies in the data file. */
  readonly weights: ReadonlyMap<string, ExternalRange>;
  readonly dataFile: string;
}

/** Encodes the model file. The data file is written apart, by `ensureGraph`. */
export function gpt2Graph(config: Gpt2Config, options: GraphOptions): Uint8Array {
  const { layers, heads, headDim, width, positions, vocabSize } = config;
  const graph = new OnnxGraph("gpt2", options.dataFile);
  const weight = declareWeights(graph, config, options);
  const linear = linearLayers(graph, options.precision);
  const cacheDims = ["batch", heads, positions, headDim] as const;

  graph.input("input_ids", DataType.int64, ["batch", "sequence"]);
  graph.input("position_ids", DataType.int64, ["batch", "sequence"]);
  graph.input("soft_embeds", DataType.float, ["soft_batch", "soft_sequence", width]);
  graph.input("seqlens_k", DataType.int32, ["batch"]);
  graph.input("total_sequence_length", DataType.int32, [1]);
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ["key", "value"]) {
      graph.input(`past_${part}.${layer}`, DataType.float, cacheDims);
      graph.output(`present_${part}.${layer}`, DataType.float, cacheDims);
    }
  }

  embed(graph, weight);
  const epsilon = { float: config.layerNormEpsilon };
  let residual = "embedded";
  let normed = "normed";
  graph.node("LayerNormalization", [residual, weight("h.0.ln_1.weight"), weight("h.0.ln_1.bias")], [normed], { axis: -1, epsilon });

  /** residual + delta + bias, and its layer norm: one fused node. */
  const addAndNorm = (delta: string, bias: string, norm: string, at: string): void => {
    const [sum, out] = [`${at}.residual`, `${at}.normed`];
    graph.contrib(
      "SkipLayerNormalization",
      [residual, delta, weight(`${norm}.weight`), weight(`${norm}.bias`), weight(bias)],
      [out, "", "", sum],
      { epsilon },
    );
    [residual, normed] = [sum, out];
  };

  for (let layer = 0; layer < layers; layer++) {
    const at = `h.${layer}`;
    linear.conv1d(normed, `${at}.attn.c_attn.weight`, `${at}.qkv_unbiased`);
    graph.node("Add", [`${at}.qkv_unbiased`, weight(`${at}.attn.c_attn.bias`)], [`${at}.qkv`]);
    graph.contrib(
      "GroupQueryAttention",
      [`${at}.qkv`, "", "", `past_key.${layer}`, `past_value.${layer}`, "seqlens_k", "total_sequence_length"],
      [`${at}.attended`, `present_key.${layer}`, `present_value.${layer}`],
      { num_heads: heads, kv_num_heads: heads, scale: { float: attentionScale(config, layer) } },
    );
    linear.conv1d(`${at}.attended`, `${at}.attn.c_proj.weight`, `${at}.attn_out`, "attended");
    addAndNorm(`${at}.attn_out`, `${at}.attn.c_proj.bias`, `${at}.ln_2`, `${at}.mlp`);
    linear.conv1d(normed, `${at}.mlp.c_fc.weight`, `${at}.fc`);
    activate(graph, config, `${at}.fc`, weight(`${at}.mlp.c_fc.bias`), `${at}.act`);
    linear.conv1d(`${at}.act`, `${at}.mlp.c_proj.weight`, `${at}.mlp_out`);
    addAndNorm(`${at}.mlp_out`, `${at}.mlp.c_proj.bias`, layer + 1 < layers ? `h.${layer + 1}.ln_1` : "ln_f", `${at}.out`);
  }

  head(graph, normed, (hidden) => linear.head(hidden, headTensor(config), "logits"), options.candidates, vocabSize);
  return graph.encode();
}

function declareWeights(graph: OnnxGraph, config: Gpt2Config, { precision, weights }: GraphOptions): (name: string) => string {
  for (const [name, { type, dims }] of graphWeights(config, precision)) {
    const range = weights.get(name);
    if (range === undefined) throw new Error(`no place in the data file for ${name}`);
    graph.external(name, type, dims, range);
  }
  return (name) => name;
}

/** Token embedding (or soft embedding where the id is -1) plus position embedding. Gather takes -1 as the last row. */
function embed(graph: OnnxGraph, weight: (name: string) => string): void {
  graph.constant("soft_id", DataType.int64, [1], BigInt64Array.of(-1n));
  graph.constant("last_axis", DataType.int64, [1], BigInt64Array.of(-1n));
  graph.node("Equal", ["input_ids", "soft_id"], ["is_soft"]);
  graph.node("Unsqueeze", ["is_soft", "last_axis"], ["is_soft_column"]);
  graph.node("Gather", [weight("wte.weight"), "input_ids"], ["token_embeds"]);
  graph.node("Where", ["is_soft_column", "soft_embeds", "token_embeds"], ["embeds"]);
  graph.node("Gather", [weight("wpe.weight"), "position_ids"], ["position_embeds"]);
  graph.node("Add", ["embeds", "position_embeds"], ["embedded"]);
}

function activate(graph: OnnxGraph, config: Gpt2Config, input: string, bias: string, output: string): void {
  switch (config.activation) {
    case "gelu_new":
    case "gelu_pytorch_tanh":
      return graph.contrib("FastGelu", [input, bias], [output]);
    case "gelu":
      return graph.contrib("BiasGelu", [input, bias], [output]);
    case "relu":
      graph.node("Add", [input, bias], [`${output}.biased`]);
      return graph.node("Relu", [`${output}.biased`], [output]);
  }
}

/** modeling_gpt2.py: D^-0.5 if scale_attn_weights, divided by layer + 1 if scale_attn_by_inverse_layer_idx. */
function attentionScale(config: Gpt2Config, layer: number): number {
  const scale = config.scaleAttnWeights ? 1 / Math.sqrt(config.headDim) : 1;
  return config.scaleAttnByInverseLayerIdx ? scale / (layer + 1) : scale;
}

/**
 * Logits of the last token, the K largest, and log(sum(exp(logits))) as the largest logit minus its log-probability. LogSoftmax
 * cannot overflow and works row by row; Exp and ReduceSum nodes are split over threads in ways that depend on the batch, and
 * changed the last bit of a row beside other rows.
 */
function head(graph: OnnxGraph, hidden: string, addLogits: (hidden: string) => void, candidates: number, vocabSize: number): void {
  graph.constant("last_token", DataType.int64, [], BigInt64Array.of(-1n));
  graph.constant("candidates", DataType.int64, [1], BigInt64Array.of(BigInt(candidates)));
  graph.constant("zero", DataType.int64, [1], BigInt64Array.of(0n));
  graph.constant("one", DataType.int64, [1], BigInt64Array.of(1n));
  graph.node("Gather", [hidden, "last_token"], ["last_hidden"], { axis: 1 });
  addLogits("last_hidden");
  graph.node("TopK", ["logits", "candidates"], ["top_logits", "top_ids_64"], { axis: -1, largest: 1, sorted: 1 });
  graph.node("Cast", ["top_ids_64"], ["top_ids"], { to: DataType.int32 });
  graph.node("Slice", ["top_logits", "zero", "one", "one"], ["max_logit"]);
  graph.node("Slice", ["top_ids_64", "zero", "one", "one"], ["max_id"]);
  graph.node("LogSoftmax", ["logits"], ["logprobs"], { axis: -1 });
  graph.node("GatherElements", ["logprobs", "max_id"], ["max_logprob"], { axis: 1 });
  graph.node("Sub", ["max_logit", "max_logprob"], ["log_sum_exp"]);
  graph.output("logits", DataType.float, ["batch", vocabSize]);
  graph.output("top_logits", DataType.float, ["batch", candidates]);
  graph.output("top_ids", DataType.int32, ["batch", candidates]);
  graph.output("log_sum_exp", DataType.float, ["batch", 1]);
}
