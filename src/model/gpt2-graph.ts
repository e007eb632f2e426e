/**
 * GPT-2 as an ONNX graph for continuous batching: pre-LN decoder (transformers' modeling_gpt2.py) over a KV cache that
 * is updated in place. Attention is ONNX Runtime's GroupQueryAttention over slots (CPU, WebGPU) or PagedAttention over
 * pages (CUDA).
 *
 * Inputs   input_ids, position_ids  int32 [b, s] (slots) or [t] (pages); id -1 reads its embedding from soft_embeds
 *          soft_embeds              f32 [b|1, s|1, width] or [t|1, width], broadcast
 *          output_rows              int32 [k], indices of the tokens to answer for, counted row by row
 *          past_{key,value}.{l}     f32|f16 [b, H, M, D] or f16 [blocks, block, H, D], bound to the same memory as
 *                                   present_{key,value}.{l}
 *  slots   seqlens_k                int32 [b], tokens already in the cache + s - 1
 *          total_sequence_length    int32 [1], the longest row's total, read by the host
 *  device  integers                 int32 [2 b s + b + k], replaces input_ids, position_ids, seqlens_k and output_rows,
 *                                   concatenated in this order
 *          integer_counts           int64 [4], the length of each, read by the host
 *          rows_shape               int64 [3], b, s and -1, read by the host
 *          soft_embeds              f32 [b s|1, width], optional when no id is -1
 *  pages   cumulative_lengths       int32 [b + 1], each row's first token among the t
 *          past_lengths             int32 [b], tokens already in the cache
 *          block_table              int32 [b, columns], each row's blocks
 *          bounds                   int32 [2], read by the host: upper bounds of a row's new tokens and of its context.
 *                                   A bound that is too small gives wrong numbers without an error
 * Outputs  logits                   f32 [k, V]; over pages in the cache's dtype
 *          top_logits, top_ids      f32, int64 (CPU) or int32 [k, K], descending, ties by id (CUDA: in its own order)
 *          top_probability          f32 [k, 1], of the likeliest token
 *  device  answers                  f32 [k, 2K + 1], the last three concatenated by column, instead of them
 *
 * On WebGPU every transfer, however small, is a copy of its own with the device idle: hence one tensor each way.
 * Every node over slots runs on ONNX Runtime's CPU and WebGPU providers: hence no int64 arithmetic and no LogSoftmax.
 * GroupQueryAttention takes b > 1 only with s = 1, and s > 1 with a past only at b = 1; PagedAttention takes any rows.
 */
import type { Gpt2Config } from "./checkpoint.ts";
import {
  attentionScale,
  floatType,
  graphWeights,
  headTensor,
  isInteger,
  LINEAR_WEIGHT,
  rowsInFile,
  scaledQueries,
  type Arithmetic,
  type FloatType,
} from "./graph-weights.ts";
import { dimsInParts, layersInParts, linearLayers, type LinearLayers } from "./linear.ts";
import { DataType, OnnxGraph, type Dim, type ExternalRange } from "./onnx-writer.ts";
import { skippablePart } from "./skipped-part.ts";
import { candidatesByGroup, candidatesByPart } from "./top-candidates.ts";

/** Part of a built graph's cache key: change it whenever the graph changes. */
export const GRAPH_VERSION = 9;

/** Input id that selects a row of soft_embeds. */
export const SOFT_ID = -1;
/** Above transformers' default top_k of 50, so that default sampling never needs all logits. */
export const CANDIDATES = 64;
/** A smaller vocabulary has no more. */
export const candidatesOf = ({ vocabSize }: { readonly vocabSize: number }): number => Math.min(CANDIDATES, vocabSize);

export interface GraphOptions {
  readonly arithmetic: Arithmetic;
  /** K; at most the vocabulary. */
  readonly candidates: number;
  /** The range of each of `graphWeights` in the data file. */
  readonly weights: ReadonlyMap<string, ExternalRange>;
  readonly dataFile: string;
  /**
   * host: CPU only; the head is skipped in runs without output rows. device: every node runs on a device; candidates in
   * two levels, long sums in parts. paged: every node runs on a device, with PagedAttention.
   */
  readonly kind: GraphKind;
}

export type GraphKind = "host" | "device" | "paged";

/** Encodes the model file. `ensureGraph` writes the data file. */
export function gpt2Graph(config: Gpt2Config, options: GraphOptions): Uint8Array {
  const { layers, heads, headDim, width, positions } = config;
  const type = floatType(options.arithmetic);
  const graph = new OnnxGraph("gpt2", options.dataFile);
  const weight = declareWeights(graph, config, options);
  const linear = sumsInParts(options)
    ? layersInParts(graph, type, graphWeights(config, options.arithmetic))
    : linearLayers(graph, options.arithmetic);
  const paged = options.kind === "paged";
  const cacheDims = paged ? ["blocks", "block", heads, headDim] : ["batch", heads, positions, headDim];

  const rows = options.kind === "device" ? packedInputs(graph, width) : separateInputs(graph, width, paged);
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
  graph.node("LayerNormalization", [residual, weight("h.0.ln_1.weight"), weight("h.0.ln_1.bias")], [normed], {
    axis: -1,
    epsilon,
  });

  /** residual + delta + bias and its layer norm, in one fused node. */
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
    const cache = [`past_key.${layer}`, `past_value.${layer}`];
    graph.contrib(
      paged ? "PagedAttention" : "GroupQueryAttention",
      [rows.apart(`${at}.qkv`), "", "", ...cache, ...(paged ? PAGED_LENGTHS : SLOT_LENGTHS)],
      [`${at}.attended`, `present_key.${layer}`, `present_value.${layer}`],
      {
        num_heads: heads,
        kv_num_heads: heads,
        scale: { float: scaledQueries(options.arithmetic) ? 1 : attentionScale(config, layer) },
      },
    );
    linear.conv1d(rows.flat(`${at}.attended`), `${at}.attn.c_proj.weight`, `${at}.attn_out`, "attended");
    addAndNorm(`${at}.attn_out`, `${at}.attn.c_proj.bias`, `${at}.ln_2`, `${at}.mlp`);
    linear.conv1d(normed, `${at}.mlp.c_fc.weight`, `${at}.fc`);
    activate(graph, config, `${at}.fc`, weight(`${at}.mlp.c_fc.bias`), `${at}.act`);
    linear.conv1d(`${at}.act`, `${at}.mlp.c_proj.weight`, `${at}.mlp_out`);
    addAndNorm(
      `${at}.mlp_out`,
      `${at}.mlp.c_proj.bias`,
      layer + 1 < layers ? `h.${layer + 1}.ln_1` : "ln_f",
      `${at}.out`,
    );
  }

  HEADS[options.kind](graph, normed, config, options, linear);
  return graph.encode();
}

/**
 * Converts between `[t, n]`, which a device's other nodes use, and `[b, s, n]`, which attention over slots requires.
 * Identity elsewhere.
 */
interface Rows {
  apart(tokens: string): string;
  flat(rows: string): string;
}

type Inputs = Readonly<Record<string, readonly Dim[]>>;
const SLOT_INPUTS: Inputs = { seqlens_k: ["batch"], total_sequence_length: [1] };
const PAGED_INPUTS: Inputs = {
  cumulative_lengths: ["rows_and_one"],
  past_lengths: ["rows"],
  block_table: ["rows", "columns"],
  bounds: [2],
};

/** Inputs after query, key, value and the cache. Of PagedAttention's optional inputs only the last is used. */
const SLOT_LENGTHS = ["seqlens_k", "total_sequence_length"];
const PAGED_LENGTHS = ["cumulative_lengths", "past_lengths", "block_table", ...new Array<string>(8).fill(""), "bounds"];

function separateInputs(graph: OnnxGraph, width: number, paged: boolean): Rows {
  const tokens = paged ? ["tokens"] : ["batch", "sequence"];
  graph.input("input_ids", DataType.int32, tokens);
  graph.input("position_ids", DataType.int32, tokens);
  graph.input("soft_embeds", DataType.float, [...tokens.map((dim) => `soft_${dim}`), width]);
  for (const [name, dims] of Object.entries(paged ? PAGED_INPUTS : SLOT_INPUTS))
    graph.input(name, DataType.int32, dims);
  graph.input("output_rows", DataType.int32, ["outputs"]);
  return { apart: (tokens) => tokens, flat: (rows) => rows };
}

function packedInputs(graph: OnnxGraph, width: number): Rows {
  graph.input("integers", DataType.int32, ["integers"]);
  graph.input("integer_counts", DataType.int64, [4]);
  graph.input("rows_shape", DataType.int64, [3]);
  graph.input("total_sequence_length", DataType.int32, [1]);
  graph.node("Split", ["integers", "integer_counts"], ["input_ids", "position_ids", "seqlens_k", "output_rows"], {
    axis: 0,
  });
  // An input with a default value may be omitted.
  graph.input("soft_embeds", DataType.float, ["soft_tokens", width]);
  graph.constant("soft_embeds", DataType.float, [1, width], new Float32Array(width));
  graph.constant("flat_shape", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(width)));
  const reshaped = (input: string, shape: string, output: string): string => {
    graph.node("Reshape", [input, shape], [output]);
    return output;
  };
  return {
    apart: (tokens) => reshaped(tokens, "rows_shape", `${tokens}.apart`),
    flat: (rows) => reshaped(rows, "flat_shape", `${rows}.flat`),
  };
}

const sumsInParts = ({ kind, arithmetic }: GraphOptions): boolean => kind === "device" && !isInteger(arithmetic);

function declareWeights(graph: OnnxGraph, config: Gpt2Config, options: GraphOptions): (name: string) => string {
  const { arithmetic, weights, kind } = options;
  for (const [name, { type, dims }] of graphWeights(config, arithmetic)) {
    const range = weights.get(name);
    if (range === undefined) throw new Error(`no place in the data file for ${name}`);
    const rows = kind === "paged" ? rowsInFile(config, name, dims[0]!) : dims[0]!;
    const shape = sumsInParts(options) && LINEAR_WEIGHT.test(name) ? dimsInParts(dims) : [rows, ...dims.slice(1)];
    graph.external(name, type, shape, { offset: range.offset, length: (range.length / dims[0]!) * rows });
  }
  return (name) => name;
}

/** Token embedding (soft embedding where the id is -1) plus position embedding. Gather reads -1 as the last row. */
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
 * Logits of the answered tokens, the K largest, and the probability p of the likeliest, whose log-sum-exp is max -
 * log(p). Softmax cannot overflow and works row by row, and a maximum is exact in any order. Exp and ReduceSum nodes
 * would be split over threads depending on the batch, which changed a row's last bit when other rows were present.
 *
 * Runs only when an answer is requested: the head is a third of the weights.
 */
function hostHead(
  graph: OnnxGraph,
  hidden: string,
  config: Gpt2Config,
  { arithmetic, candidates }: GraphOptions,
): void {
  const answers = new OnnxGraph("answers", "");
  answered(answers, hidden, config);
  linearLayers(answers, arithmetic, "answers.").head("output_hidden", headTensor(config), "answers.logits");
  answers.constant("candidates", DataType.int64, [1], BigInt64Array.of(BigInt(candidates)));
  answers.node("TopK", ["answers.logits", "candidates"], ["answers.top_logits", "answers.top_ids"], {
    axis: -1,
    largest: 1,
    sorted: 1,
  });
  answers.node("Softmax", ["answers.logits"], ["probabilities"], { axis: -1 });
  answers.node("ReduceMax", ["probabilities", "last_axis"], ["answers.top_probability"], { keepdims: 1 });
  const outputs = answersOf(config, candidates, DataType.int64);
  for (const { name, type, dims } of outputs) graph.output(name, type, ["outputs", dims]);
  graph.node("Shape", ["output_rows"], ["output_count"]);
  graph.node("Cast", ["output_count"], ["is_answered"], { to: DataType.bool });
  skippablePart(graph, "is_answered", answers, "answers.", "outputs", outputs);
}

/** The same for WebGPU. */
function deviceHead(
  graph: OnnxGraph,
  hidden: string,
  config: Gpt2Config,
  { candidates }: GraphOptions,
  linear: LinearLayers,
): void {
  answered(graph, hidden, config);
  linear.head("output_hidden", headTensor(config), "logits");
  candidatesByPart(graph, config.vocabSize, candidates);
  graph.node("Concat", ["top_logits", "top_ids_float", "top_probability"], ["answers"], { axis: 1 });
  graph.output("logits", DataType.float, ["outputs", config.vocabSize]);
  graph.output("answers", DataType.float, ["outputs", answerColumns(candidates)]);
}

/**
 * The same for CUDA. Logits keep the dtype they were computed in: reading and writing them is half the cost of the
 * head.
 */
function pagedHead(
  graph: OnnxGraph,
  hidden: string,
  config: Gpt2Config,
  { arithmetic, candidates }: GraphOptions,
): void {
  const type = floatType(arithmetic);
  answered(graph, hidden, config);
  graph.constant("first_column", DataType.int64, [1], BigInt64Array.of(0n));
  graph.constant("end_of_vocabulary", DataType.int64, [1], BigInt64Array.of(BigInt(config.vocabSize)));
  graph.node("Gemm", ["output_hidden", headTensor(config)], ["padded_logits"], { transB: 1 });
  graph.node("Slice", ["padded_logits", "first_column", "end_of_vocabulary", "last_axis"], ["logits"]);
  candidatesByGroup(graph, type, config.vocabSize, candidates);
  for (const { name, type: usual, dims } of answersOf(config, candidates, DataType.int32))
    graph.output(name, name === "logits" ? type : usual, ["outputs", dims]);
}

const HEADS = { host: hostHead, device: deviceHead, paged: pagedHead } as const;

/** `output_hidden` [k, width]: the hidden states of the answered tokens. */
function answered(graph: OnnxGraph, hidden: string, config: Gpt2Config): void {
  graph.constant("token_rows", DataType.int64, [2], BigInt64Array.of(-1n, BigInt(config.width)));
  graph.node("Reshape", [hidden, "token_rows"], ["hidden_rows"]);
  graph.node("Gather", ["hidden_rows", "output_rows"], ["output_hidden"], { axis: 0 });
}

/** Columns of a device's `answers` for this many candidates. */
export const answerColumns = (candidates: number): number => 2 * candidates + 1;

function answersOf(
  config: Gpt2Config,
  candidates: number,
  ids: DataType,
): readonly { name: string; type: DataType; dims: number }[] {
  return [
    { name: "logits", type: DataType.float, dims: config.vocabSize },
    { name: "top_logits", type: DataType.float, dims: candidates },
    { name: "top_ids", type: ids, dims: candidates },
    { name: "top_probability", type: DataType.float, dims: 1 },
  ];
}
