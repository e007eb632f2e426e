/**
 * GPT-2's forward pass and the gradient of the loss with respect to a prefix or a prompt of virtual tokens, over the
 * serving graph's fp32 weights. The weights are frozen: gradients flow through activations only, and no further down
 * than what is trained. S is the number of tokens of a row, T = P + S the positions it sees; rows are padded on the
 * right, so the causal mask is all that is needed. In kind "prompt" a row's first P tokens are the virtual ones.
 *
 * Inputs   input_ids, position_ids  int32 [S, B] (prompt: input_ids [S - P, B])
 *          mask                     fp32 [1, 1, S, T] (prompt: [1, 1, S, S]), 0 or very negative
 *          prefix                   fp32 [L, 2, H, P, D]
 *          prompt                   fp32 [P, E], instead of prefix
 *          rows, targets            int32 [R]: tokens whose successor is learned (by their place in [S, B]), and
 *                                   that successor
 *          weight                   fp32 [1, 1]: of every target in the loss
 *          row_of                   int32 [S B]: a token's index in `rows`; R if it is not there
 *          qkv_shape, head_shape    int64 S, B, 3, H, D and S, B, H, D
 *          expanded_shape           int64 P, B, H, D (prompt: P, B, E)
 *          lengths                  int64 P, S (prompt: P, S - P)
 *          token_shape              int64 S, B, E (prompt only)
 * Outputs  nll                      fp32 [R, 1], of each target, without the weight
 *          margin                   fp32 [R, 1]: the largest logit minus the target's; 0 where the target is likeliest
 *          gradient                 fp32, as prefix or prompt, of the weighted sum of nll
 *
 * Shapes are inputs because devices have no arithmetic on int64.
 */
import type { Gpt2Config } from "./checkpoint.ts";
import { Expressions } from "./graph-expressions.ts";
import { graphWeights, headTensor, weightRanges } from "./graph-weights.ts";
import { DataType, OnnxGraph } from "./onnx-writer.ts";
import { attention, type Attention, type AttentionInputs, type LayerPrefix } from "./train-attention.ts";
import { ACTIVATION_LAYERS, layerNorm, linear, type Pullback } from "./train-layers.ts";

/** prefix: keys and values of every layer. prompt: embeddings. */
export type TrainedKind = "prefix" | "prompt";

export interface TrainGraphOptions {
  readonly kind: TrainedKind;
  /** False: a graph without `gradient`, to evaluate. */
  readonly backward: boolean;
  /** Of the weights, as `ensureGraph` writes them for fp32. */
  readonly dataFile: string;
}

/** Encodes the model file. */
export function trainGraph(config: Gpt2Config, options: TrainGraphOptions): Uint8Array {
  const { layers, heads, headDim, width } = config;
  const { kind, backward } = options;
  const graph = new OnnxGraph("train", options.dataFile);
  const e = new Expressions(graph);
  const { ranges } = weightRanges(config, "fp32");
  for (const [name, { type, dims }] of graphWeights(config, "fp32"))
    graph.external(name, type, dims, ranges.get(name)!);
  const inputs = declareInputs(graph, config, kind);

  const norm = (x: string, at: string): readonly [string, Pullback] => layerNorm(e, x, at, config.layerNormEpsilon);
  const blocks: Block[] = [];
  let x = embed(e, kind, width);
  for (let layer = 0; layer < layers; layer++) {
    const at = `h.${layer}`;
    const [normed, dNorm] = norm(x, `${at}.ln_1`);
    const [qkv, dQkv] = linear(e, normed, `${at}.attn.c_attn`);
    const prefix = kind === "prefix" ? layerPrefix(e, layer) : null;
    const attending = attention(e, qkv, prefix, inputs);
    let attended = attending.attended;
    // After its attention the last layer matters only where a target follows.
    if (layer === layers - 1) [attended, x] = [e.rows(attended, "rows"), e.rows(x, "rows")];
    const [projected, dProjected] = linear(e, attended, `${at}.attn.c_proj`);
    x = e.add(x, projected);
    const [normedAgain, dNormAgain] = norm(x, `${at}.ln_2`);
    const [u, dU] = linear(e, normedAgain, `${at}.mlp.c_fc`);
    const [activated, dActivated] = ACTIVATION_LAYERS[config.activation](e, u);
    const [out, dOut] = linear(e, activated, `${at}.mlp.c_proj`);
    x = e.add(x, out);
    blocks.push({
      attention: attending,
      ofMlp: (dx) => e.add(dx, dNormAgain(dU(dActivated(dOut(dx))))),
      ofProjection: dProjected,
      ofTokens: (dx, dQkvs) => e.add(dx, dNorm(dQkv(dQkvs))),
    });
  }
  const [hidden, dNormOfHead] = norm(x, "ln_f");
  const dHidden = loss(e, hidden, headTensor(config));
  if (!backward) return graph.encode();

  let dx = dNormOfHead(dHidden());
  const ofPrefix: string[] = [];
  for (const [layer, block] of [...blocks.entries()].reverse()) {
    dx = block.ofMlp(dx);
    let dAttended = block.ofProjection(dx);
    if (layer === layers - 1) [dAttended, dx] = [toTokens(e, dAttended, width), toTokens(e, dx, width)];
    const { qkv, prefix } = block.attention.backward(dAttended, layer > 0 || kind === "prompt");
    if (prefix !== null) ofPrefix.unshift(prefix);
    if (qkv !== null) dx = block.ofTokens(dx, qkv);
  }
  if (kind === "prefix") {
    graph.node("Identity", [e.stack(ofPrefix)], ["gradient"]);
    graph.output("gradient", DataType.float, [layers, 2, heads, "P", headDim]);
  } else {
    const virtual = e.ops("Split", [e.reshape(dx, "token_shape"), "lengths"], 2, { axis: 0 })[0]!; // [P, B, E]
    graph.node("ReduceSum", [virtual, e.integers(1)], ["gradient"], { keepdims: 0 });
    graph.output("gradient", DataType.float, ["P", width]);
  }
  return graph.encode();
}

/** A block's way back, in the order in which it is gone. */
interface Block {
  readonly ofMlp: Pullback;
  readonly ofProjection: Pullback;
  readonly attention: Attention;
  readonly ofTokens: (dx: string, dQkv: string) => string;
}

function declareInputs(
  graph: OnnxGraph,
  { layers, heads, headDim, width }: Gpt2Config,
  kind: TrainedKind,
): AttentionInputs {
  const input = (name: string, type: DataType, ...dims: readonly (number | string)[]): string =>
    graph.input(name, type, dims);
  input("input_ids", DataType.int32, kind === "prefix" ? "S" : "S_own", "B");
  input("position_ids", DataType.int32, "S", "B");
  input("mask", DataType.float, 1, 1, "S", "T");
  if (kind === "prefix") input("prefix", DataType.float, layers, 2, heads, "P", headDim);
  else input("prompt", DataType.float, "P", width);
  input("rows", DataType.int32, "R");
  input("targets", DataType.int32, "R");
  input("weight", DataType.float, 1, 1);
  input("row_of", DataType.int32, "N");
  input("expanded_shape", DataType.int64, kind === "prefix" ? 4 : 3);
  input("lengths", DataType.int64, 2);
  input("qkv_shape", DataType.int64, 5);
  input("head_shape", DataType.int64, 4);
  if (kind === "prompt") input("token_shape", DataType.int64, 3);
  for (const name of ["nll", "margin"]) graph.output(name, DataType.float, ["R", 1]);
  return { qkvShape: "qkv_shape", headShape: "head_shape", mask: "mask", width };
}

/** `[S B, E]` */
function embed(e: Expressions, kind: TrainedKind, width: number): string {
  const own = e.rows("wte.weight", "input_ids");
  const virtual = (): string => e.op("Expand", [e.op("Unsqueeze", ["prompt", e.integers(1)]), "expanded_shape"]);
  const tokens = kind === "prefix" ? own : e.op("Concat", [virtual(), own], { axis: 0 });
  return e.reshape(e.add(tokens, e.rows("wpe.weight", "position_ids")), [-1, width]);
}

function layerPrefix(e: Expressions, layer: number): LayerPrefix {
  const both = e.select("prefix", 0, layer); // [2, H, P, D]
  return {
    key: e.op("Slice", [both, e.integers(0), e.integers(1), e.integers(0)]),
    value: e.op("Slice", [both, e.integers(1), e.integers(2), e.integers(0)]),
    expandedShape: "expanded_shape",
    lengths: "lengths",
  };
}

/**
 * Cross-entropy, and its gradient with respect to `hidden` [R, E]: p W - W[target], times the weight. The
 * target's own probability may underflow, so nll = log-sum-exp - its logit, with log-sum-exp = max - log(p of the
 * likeliest).
 */
function loss(e: Expressions, hidden: string, head: string): () => string {
  const logits = e.op("Gemm", [hidden, head], { transB: 1 }); // [R, V]
  const p = e.op("Softmax", [logits], { axis: -1 });
  const target = e.op("GatherElements", [logits, e.reshape("targets", [-1, 1])], { axis: 1 });
  e.graph.node("Sub", [e.reduce("ReduceMax", logits, -1), target], ["margin"]);
  e.graph.node("Sub", ["margin", e.op("Log", [e.reduce("ReduceMax", p, -1)])], ["nll"]);
  return () => e.multiply(e.subtract(e.op("Gemm", [p, head]), e.rows(head, "targets")), "weight");
}

/** From `[R, E]` at the loss rows to all tokens `[S B, E]`, zeros elsewhere. */
function toTokens(e: Expressions, atRows: string, width: number): string {
  return e.rows(e.op("Concat", [atRows, e.zeros(width)], { axis: 0 }), "row_of");
}
