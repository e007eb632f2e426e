/** Contents of a graph's data file in each precision, and the checkpoint tensors they come from. */
import { gpt2Tensors, type Gpt2Config } from "./checkpoint.ts";
import { DataType, type ExternalRange } from "./onnx-writer.ts";

/**
 * fp32: what HF PEFT computes on a CPU. int8: linear layers and the head multiply 8-bit integers (linear.ts);
 * embeddings, norms, attention and the KV cache stay fp32. fp16: half the memory and memory traffic, on devices that
 * support it.
 */
export const PRECISIONS = ["fp32", "int8", "fp16"] as const;
export type Precision = (typeof PRECISIONS)[number];

/**
 * The arithmetic of a graph's nodes. int8 has two forms with identical results: signed weights, for processors whose
 * kernels multiply them exactly, and unsigned weights with zero point 128, for all others (integer-kernels.ts).
 */
export const ARITHMETICS = ["fp32", "int8-u8s8", "int8-u8u8", "fp16"] as const;
export type Arithmetic = (typeof ARITHMETICS)[number];
export type IntegerArithmetic = Extract<Arithmetic, `int8-${string}`>;

export const isInteger = (arithmetic: Arithmetic): arithmetic is IntegerArithmetic => arithmetic.startsWith("int8-");

/** Dtype of unquantised weights, activations and the KV cache. Logits are always fp32. */
export type FloatType = typeof DataType.float | typeof DataType.float16;
export const floatType = (precision: Precision | Arithmetic): FloatType =>
  precision === "fp16" ? DataType.float16 : DataType.float;

/** Zero point of unsigned activations and weights. */
export const ZERO_POINT = 128;

export interface GraphWeight {
  readonly type: DataType;
  /** Shape in the graph. */
  readonly dims: readonly number[];
  /** Name of the checkpoint's tensor. */
  readonly source: string;
  /**
   * values: the source as it is. integers: quantised `[in, out]`, plus ZERO_POINT if `type` is uint8; stored after the
   * source's `scales`. scales: one per output channel.
   */
  readonly form: "values" | "integers" | "scales";
  /** The source's axis of output channels: 1 for Conv1D's `[in, out]`, 0 for the head's `[vocabulary, width]`. */
  readonly channelAxis: 0 | 1;
  /** Multiplies the values or scales of the first `channels` output channels. */
  readonly factor?: ChannelFactor;
}

export interface ChannelFactor {
  readonly channels: number;
  readonly by: number;
}

/** Name of the head's weight in the checkpoint. */
export const headTensor = (config: Gpt2Config): string => (config.tieWordEmbeddings ? "wte.weight" : "lm_head.weight");

/**
 * Rows of the head's weight on CUDA; rows past the vocabulary are zeros. CUDA's fast kernels write output rows aligned
 * to 16 bytes; for 50,257 columns it falls back to kernels that take four times as long.
 */
export const paddedVocabulary = ({ vocabSize }: Gpt2Config): number => Math.ceil(vocabSize / PADDED) * PADDED;
const PADDED = 64;

/** Rows of a weight in the data file, padding included. */
export const rowsInFile = (config: Gpt2Config, name: string, rows: number): number =>
  name === headTensor(config) ? paddedVocabulary(config) : rows;

/** All contents of the data file by name in the graph, in file order. */
export function graphWeights(config: Gpt2Config, arithmetic: Arithmetic): Map<string, GraphWeight> {
  const weights = new Map<string, GraphWeight>();
  const type = floatType(arithmetic);
  for (const [name, dims] of gpt2Tensors(config)) {
    const factor = queryFactor(config, arithmetic, name);
    if (isInteger(arithmetic) && LINEAR_WEIGHT.test(name))
      addQuantized(weights, arithmetic, name, name, dims as Dims, 1, factor);
    else weights.set(name, { type, dims, source: name, form: "values", channelAxis: 1, ...(factor && { factor }) });
  }
  const source = headTensor(config);
  const dims = [config.vocabSize, config.width] as const;
  if (isInteger(arithmetic)) addQuantized(weights, arithmetic, "head", source, dims, 0);
  else if (!config.tieWordEmbeddings) weights.set(source, { type, dims, source, form: "values", channelAxis: 0 });
  return weights;
}

/** ORT memory-maps external data; page alignment avoids a copy. */
const ALIGNMENT = 4096;
const BYTES: Readonly<Partial<Record<DataType, number>>> = {
  [DataType.float]: 4,
  [DataType.float16]: 2,
  [DataType.int8]: 1,
  [DataType.uint8]: 1,
};

/** Where the data file holds each of `graphWeights`, without the padding of `rowsInFile`, and the file's size. */
export function weightRanges(
  config: Gpt2Config,
  arithmetic: Arithmetic,
): { readonly ranges: ReadonlyMap<string, ExternalRange>; readonly size: number } {
  const ranges = new Map<string, ExternalRange>();
  let end = 0;
  for (const [name, { type, dims }] of graphWeights(config, arithmetic)) {
    const offset = Math.ceil(end / ALIGNMENT) * ALIGNMENT;
    const length = dims.reduce((product, dim) => product * dim, BYTES[type]!);
    ranges.set(name, { offset, length });
    end = offset + (length / dims[0]!) * rowsInFile(config, name, dims[0]!);
  }
  return { ranges, size: end };
}

/** Names of Conv1D weights. */
export const LINEAR_WEIGHT = /\.(c_attn|c_proj|c_fc)\.weight$/;
const QUERIES = /^h\.(\d+)\.attn\.c_attn\.(weight|bias)$/;

/** modeling_gpt2.py: D^-0.5 if scale_attn_weights, divided by layer + 1 if scale_attn_by_inverse_layer_idx. */
export function attentionScale(config: Gpt2Config, layer: number): number {
  const scale = config.scaleAttnWeights ? 1 / Math.sqrt(config.headDim) : 1;
  return config.scaleAttnByInverseLayerIdx ? scale / (layer + 1) : scale;
}

/**
 * Whether the attention scale is folded into the query projection: ONNX Runtime's fast CPU kernels for one-row products
 * take no factor. With a head_dim of 64, as in every published GPT-2, the factor is 1/8, which changes no bit. In fp16
 * small weights would lose bits.
 */
export const scaledQueries = (arithmetic: Arithmetic): boolean => floatType(arithmetic) === DataType.float;

function queryFactor(config: Gpt2Config, arithmetic: Arithmetic, name: string): ChannelFactor | undefined {
  const layer = QUERIES.exec(name)?.[1];
  if (layer === undefined || !scaledQueries(arithmetic)) return undefined;
  return { channels: config.width, by: attentionScale(config, Number(layer)) };
}

type Dims = readonly [number, number];

function addQuantized(
  weights: Map<string, GraphWeight>,
  arithmetic: IntegerArithmetic,
  name: string,
  source: string,
  dims: Dims,
  channelAxis: 0 | 1,
  factor?: ChannelFactor,
): void {
  const [outputs, inputs] = [dims[channelAxis], dims[1 - channelAxis]!];
  weights.set(`${name}.scales`, {
    type: DataType.float,
    dims: [outputs],
    source,
    form: "scales",
    channelAxis,
    ...(factor && { factor }),
  });
  weights.set(`${name}.integers`, {
    type: integerType(arithmetic),
    dims: [inputs, outputs],
    source,
    form: "integers",
    channelAxis,
  });
}

export const integerType = (arithmetic: IntegerArithmetic): DataType =>
  arithmetic === "int8-u8u8" ? DataType.uint8 : DataType.int8;
