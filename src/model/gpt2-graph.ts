/**
 * GPT-2 as an ONNX graph for continuous batching: pre-LN decoder (transformers' modeling_gpt2.py), attention as ONNX Runtime's
 * GroupQueryAttention over a KV cache that is updated in place.
 *
 * Inputs   input_ids, position_ids  int32 [b, s]; an id of -1 takes its embedding from soft_embeds
 *          soft_embeds              f32 [b|1, s|1, width], broadcast
 *          seqlens_k                int32 [b], tokens already in the cache + s - 1
 *          total_sequence_length    int32 [1], the largest of the rows' totals
 *          output_rows              int32 [k], which of the b * s tokens, row by row, are answered for
 *          past_{key,value}.{l}     f32|f16 [b, H, M, D], bound to the same memory as present_{key,value}.{l}
 * Outputs  logits                   f32 [k, V]
 *          top_logits, top_ids      f32, int64 [k, K], descending, ties by id
 *          top_probability          f32 [k, 1], of the likeliest token
 *
 * Every node runs on ONNX Runtime's CPU, WebGPU and CUDA providers: hence no arithmetic on int64, and no LogSoftmax.
 * GroupQueryAttention takes b > 1 only with s = 1, and s > 1 with a past only at b = 1.
 */
import type { Gpt2Config } from "./checkpoint.ts";
import { attentionScale, floatType, graphWeights, headTensor, scaledQueries, type Arithmetic, type FloatType } from "./graph-weights.ts";
import { linearLayers, type LinearLayers } from "./linear.ts";
import { DataType, OnnxGraph, type ExternalRange } from "./onnx-writer.ts";
import { skippablePart } from "./skipped-part.ts";

/** Part of the cache key of a built graph: change it whenever the graph changes. */
export const GRAPH_VERSION = 6;

/** More candidates than transformers' default top_k of 50, so that default sampling never needs all logits. */
export const CANDIDATES = 64;

export interface GraphOptions {
  readonly arithmetic: Arithmetic;
  /** K of the candidates, at most the vocabulary. */
  readonly candidates: number;
  /** Where each of `graphWeights` lies in the data file. */
  readonly weights: ReadonlyMap<string, ExternalRange>;
  readonly dataFile: string;
  /** Runs without output rows are possible, on the CPU only. */
  readonly skipsHead: boolean;
}

/** Encodes the model file. The data file is written apart, by `ensureGraph`. */
export function gpt2Graph(config: Gpt2Config, options: GraphOptions): Uint8Array {
  const { layers, heads, headDim, width, positions } = config;
  const type = floatType(options.arithmetic);
  const graph = new OnnxGraph("gpt2", options.dataFile);
  const weight = declareWeights(graph, config, options);
  const linear = linearLayers(graph, options.arithmetic);
  const cacheDims = ["batch", heads, positions, headDim] as const;

  graph.input("input_ids", DataType.int32, ["batch", "sequence"]);
  graph.input("position_ids", DataType.int32, ["batch", "sequence"]);
  graph.input("soft_embeds", DataType.float, ["soft_batch", "soft_sequence", width]);
  graph.input("seqlens_k", DataType.int32, ["batch"]);
  graph.input("total_sequence_length", DataType.int32, [1]);
  graph.input("output_rows", DataType.int32, ["outputs"]);
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ["key", "value"]) {
      graph.input(`past_${part}.${layer}`, type, cacheDims);
      graph.output(`present_${part}.${layer}`, type, cacheDims);
    }
  }

  embed(graph, weight, type);
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
      { num_heads: heads, kv_num_heads: heads, scale: { float: scaledQueries(options.arithmetic) ? 1 : attentionScale(config, layer) } },
    );
    linear.conv1d(`${at}.attended`, `${at}.attn.c_proj.weight`, `${at}.attn_out`, "attended");
    addAndNorm(`${at}.attn_out`, `${at}.attn.c_proj.bias`, `${at}.ln_2`, `${at}.mlp`);
    linear.conv1d(normed, `${at}.mlp.c_fc.weight`, `${at}.fc`);
    activate(graph, config, `${at}.fc`, weight(`${at}.mlp.c_fc.bias`), `${at}.act`);
    linear.conv1d(`${at}.act`, `${at}.mlp.c_proj.weight`, `${at}.mlp_out`);
    addAndNorm(`${at}.mlp_out`, `${at}.mlp.c_proj.bias`, layer + 1 < layers ? `h.${layer + 1}.ln_1` : "ln_f", `${at}.out`);
  }

  head(graph, normed, linear, config, options);
  return graph.encode();
}

function declareWeights(graph: OnnxGraph, config: Gpt2Config, { arithmetic, weights }: GraphOptions): (name: string) => string {
  for (const [name, { type, dims }] of graphWeights(config, arithmetic)) {
    const range = weights.get(name);
    if (range === undefined) throw new Error(`no place in the data file for ${name}`);
    graph.external(name, type, dims, range);
  }
  return (name) => name;
}

/** Token embedding (or soft embedding where the id is -1) plus position embedding. Gather takes -1 as the last row. */
function embed(graph: OnnxGraph, weight: (name: string) => string, type: FloatType): void {
  graph.constant("soft_id", DataType.int32, [1], Int32Array.of(-1));
  graph.constant("last_axis", DataType.int64, [1], BigInt64Array.of(-1n));
  graph.node("Equal", ["input_ids", "soft_id"], ["is_soft"]);
  graph.node("Unsqueeze", ["is_soft", "last_axis"], ["is_soft_column"]);
  graph.node("Gather", [weight("wte.weight"), "input_ids"], ["token_embeds"]);
  const soft = type === DataType.float ? "soft_embeds" : "soft_embeds_half";
  if (soft !== "soft_embeds") graph.node("Cast", ["soft_embeds"], [soft], { to: type });
  graph.node("Where", ["is_soft_column", soft, "token_embeds"], ["embeds"]);
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

/**
 * Logits of the chosen tokens, the K largest, and the probability of the likeliest: its log-sum-exp is max - log(p). Softmax cannot
 * overflow and works row by row, and a maximum is exact in any order; Exp and ReduceSum nodes are split over threads in ways that
 * depend on the batch, and changed the last bit of a row beside other rows.
 *
 * With `skipsHead` it is computed only for runs that are asked for an answer: it is a third of the weights.
 */
function head(graph: OnnxGraph, hidden: string, linear: LinearLayers, config: Gpt2Config, { arithmetic, candidates, skipsHead }: GraphOptions): void {
  const outputs = [
    { name: "logits", type: DataType.float, dims: config.vocabSize },
    { name: "top_logits", type: DataType.float, dims: candidates },
    { name: "top_ids", type: DataType.int64, dims: candidates },
    { name: "top_probability", type: DataType.float, dims: 1 },
  ] as const;
  const answers = skipsHead ? new OnnxGraph("answers", "") : graph;
  const at = skipsHead ? "answers." : "";
  answers.constant("token_rows", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(config.width)));
  answers.constant("candidates", DataType.int64, [1], BigInt64Array.of(BigInt(candidates)));
  answers.node("Reshape", [hidden, "token_rows"], ["hidden_rows"]);
  answers.node("Gather", ["hidden_rows", "output_rows"], ["output_hidden"], { axis: 0 });
  (skipsHead ? linearLayers(answers, arithmetic, at) : linear).head("output_hidden", headTensor(config), `${at}logits`);
  answers.node("TopK", [`${at}logits`, "candidates"], [`${at}top_logits`, `${at}top_ids`], { axis: -1, largest: 1, sorted: 1 });
  answers.node("Softmax", [`${at}logits`], ["probabilities"], { axis: -1 });
  answers.node("ReduceMax", ["probabilities", "last_axis"], [`${at}top_probability`], { keepdims: 1 });
  for (const { name, type, dims } of outputs) graph.output(name, type, ["outputs", dims]);
  if (!skipsHead) return;

  graph.node("Shape", ["output_rows"], ["output_count"]);
  graph.node("Cast", ["output_count"], ["is_answered"], { to: DataType.bool });
  skippablePart(graph, "is_answered", answers, at, "outputs", outputs);
}
