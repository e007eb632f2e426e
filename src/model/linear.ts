/** Linear layers in each precision, without their bias (the fused node after them adds it). */
import { toFloat16 } from "../formats/float16.ts";
import {
  floatType,
  isInteger,
  ZERO_POINT,
  type Arithmetic,
  type FloatType,
  type GraphWeight,
  type IntegerArithmetic,
} from "./graph-weights.ts";
import { DataType, type OnnxGraph } from "./onnx-writer.ts";
import { LARGEST } from "./quantize.ts";

export interface LinearLayers {
  /** `[..., in] -> [..., out]` by the named Conv1D weight. `attended` inputs come from attention and may hold NaN. */
  conv1d(input: string, weight: string, output: string, from?: "attended"): void;
  /** `[b, width] -> [b, vocabulary]`, always fp32. */
  head(input: string, weight: string, output: string): void;
}

/** @param at prefix for the names of constants, which a subgraph must not share with the graph around it */
export function linearLayers(graph: OnnxGraph, arithmetic: Arithmetic, at = ""): LinearLayers {
  return isInteger(arithmetic) ? int8Layers(graph, arithmetic, at) : floatLayers(graph, floatType(arithmetic));
}

function floatLayers(graph: OnnxGraph, type: FloatType): LinearLayers {
  return {
    conv1d: (input, weight, output) => graph.node("MatMul", [input, weight], [output]),
    head(input, weight, output) {
      const product = type === DataType.float ? output : `${output}.half`;
      graph.node("Gemm", [input, weight], [product], { transB: 1 });
      if (product !== output) graph.node("Cast", [product], [output], { to: DataType.float });
    },
  };
}

/** Shorter sums are not split; sizes between 768 and 3,072 were not measured. */
const LONG_SUM = 2048;
/** Minimum terms per part. */
const PART_TERMS = 96;
/** Kernels read vectors of four only if all sizes allow it; whether they do must not depend on the number of rows. */
const VECTOR = 4;

/** Reshapes a weight `[inputs, outputs]` for `layersInParts`, in place: `[parts, inputs per part, outputs]`. */
export function dimsInParts(dims: readonly number[]): readonly number[] {
  const [inputs, outputs] = dims as [number, number];
  if (inputs < LONG_SUM || outputs % VECTOR !== 0) return dims;
  for (let parts = Math.floor(inputs / PART_TERMS); parts > 1; parts--)
    if (inputs % (VECTOR * parts) === 0) return [parts, inputs / parts, outputs];
  return dims;
}

/**
 * The same for WebGPU, where a MatMul assigns 32 outputs of a few rows to one workgroup, which walks through all the
 * inputs. The second product of GPT-2 small's MLP makes 24 workgroups, on 132 multiprocessors, each for 3,072 inputs.
 * Split into parts of 96 inputs it takes 34 us instead of 92 on an H100 at one row, and 61 instead of 226 at 32. The
 * other layers, with 768 inputs, gain nothing: every kernel takes at least 10 us, and splitting adds two. Tokens are
 * `[t, in]`.
 *
 * The parts are summed by a product with ones, which always adds in the same order: WebGPU's ReduceSum has two orders,
 * depending on the number of rows.
 * @param weights whose Conv1D layers are declared with `dimsInParts` in the graph
 */
export function layersInParts(
  graph: OnnxGraph,
  type: FloatType,
  weights: ReadonlyMap<string, GraphWeight>,
): LinearLayers {
  const whole = floatLayers(graph, type);
  const known = new Set<string>();
  const once = (name: string, declare: (name: string) => void): string => {
    if (!known.has(name)) declare(name);
    known.add(name);
    return name;
  };
  const shape = (...sizes: readonly number[]): string =>
    once(`shape_${sizes.join("_")}`, (name) =>
      graph.constant(name, DataType.int64, [sizes.length], BigInt64Array.from(sizes, BigInt)),
    );
  const ones = (count: number): string => {
    const values = new Float32Array(count).fill(1);
    return once(`ones_${count}`, (name) =>
      graph.constant(name, type, [1, count], type === DataType.float ? values : toFloat16(values)),
    );
  };

  return {
    conv1d(input, weight, output) {
      const [parts, terms, outputs] = dimsInParts(weights.get(weight)!.dims) as [number, number, number?];
      if (outputs === undefined) return whole.conv1d(input, weight, output);
      graph.node("Reshape", [input, shape(-1, parts, terms)], [`${output}.by_token`]);
      graph.node("Transpose", [`${output}.by_token`], [`${output}.by_part`], { perm: [1, 0, 2] });
      graph.node("MatMul", [`${output}.by_part`, weight], [`${output}.of_parts`]);
      graph.node("Reshape", [`${output}.of_parts`, shape(parts, -1)], [`${output}.terms`]);
      graph.node("MatMul", [ones(parts), `${output}.terms`], [`${output}.sum`]);
      graph.node("Reshape", [`${output}.sum`, shape(-1, outputs)], [output]);
    },
    head: (input, weight, output) => whole.head(input, weight, output),
  };
}

/**
 * Integers times integers. Weights have a scale per output channel (quantize.ts), activations one per token, made at
 * run time from that token alone, so that a row never depends on its neighbours:
 *
 *     a[t] = max over k of |x[t, k]|        q[t, k] = round(127 x[t, k] / a[t])
 *     y[t, n] = a[t] * (scale[n] / 127 * sum over k of q[t, k] integer[k, n])
 *
 * The sum is exact whatever the order, given kernels that integer-kernels.ts has found to be exact. q is stored as
 * unsigned bytes around 128, for which ONNX Runtime has the faster kernels; integers as signed bytes, or as unsigned
 * ones around 128 as well. A token of zeros gives 0/0 and so any q, but a factor of 0.
 */
function int8Layers(graph: OnnxGraph, arithmetic: IntegerArithmetic, at: string): LinearLayers {
  const [quantum, zeroPoint, channels] = [`${at}quantum`, `${at}zero_point`, `${at}channels`];
  graph.constant(quantum, DataType.float, [], Float32Array.of(1 / LARGEST));
  graph.constant(zeroPoint, DataType.uint8, [], Uint8Array.of(ZERO_POINT));
  graph.constant(channels, DataType.int64, [1], BigInt64Array.of(-1n));

  /** Each token's largest magnitude, `[..., 1]`. */
  const magnitude = (input: string, from: "attended" | undefined): string => {
    const largest = `${input}.largest`;
    graph.node("Abs", [input], [`${input}.abs`]);
    graph.node("ReduceMax", [`${input}.abs`, channels], [largest], { keepdims: 1 });
    if (from === undefined) return largest;
    // ReduceMax ignores NaN, and a quantised NaN is a number: an overflowed head would go on as garbage. The mean of
    // the magnitudes never exceeds the largest but is NaN if any value is, and Max propagates it.
    graph.node("ReduceMean", [input, channels], [`${input}.mean`], { keepdims: 1 });
    graph.node("Max", [largest, `${input}.mean`], [`${input}.magnitude`]);
    return `${input}.magnitude`;
  };

  const multiply = (input: string, weight: string, output: string, from?: "attended"): void => {
    const factor = magnitude(input, from);
    graph.node("Div", [input, factor], [`${input}.relative`]);
    graph.node("QuantizeLinear", [`${input}.relative`, quantum, zeroPoint], [`${input}.quantized`]);
    const zeroPoints = arithmetic === "int8-u8u8" ? [zeroPoint, zeroPoint] : [zeroPoint];
    graph.contrib(
      "MatMulIntegerToFloat",
      [`${input}.quantized`, `${weight}.integers`, quantum, `${weight}.scales`, ...zeroPoints],
      [`${output}.relative`],
    );
    graph.node("Mul", [`${output}.relative`, factor], [output]);
  };
  return { conv1d: multiply, head: (input, _weight, output) => multiply(input, "head", output) };
}
