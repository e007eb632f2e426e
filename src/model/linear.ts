/** Linear layers without their bias (which is added by a fused node behind them), in each precision. */
import { floatType, isInteger, ZERO_POINT, type Arithmetic, type FloatType, type IntegerArithmetic } from "./graph-weights.ts";
import { DataType, type OnnxGraph } from "./onnx-writer.ts";
import { LARGEST } from "./quantize.ts";

export interface LinearLayers {
  /** `[b, s, in] -> [b, s, out]` by the Conv1D weight of that name. `attended` inputs come from attention and may hold NaN. */
  conv1d(input: string, weight: string, output: string, from?: "attended"): void;
  /** `[b, width] -> [b, vocabulary]`, fp32 whatever the input is. */
  head(input: string, weight: string, output: string): void;
}

/** @param at goes before the names of constants, which a graph inside another one must not share with it */
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

/**
 * Integers times integers. Weights have a scale per output channel (quantize.ts), activations one per token, made at run time from
 * that token alone, so that a row never depends on its neighbours:
 *
 *     a[t] = max over k of |x[t, k]|        q[t, k] = round(127 x[t, k] / a[t])
 *     y[t, n] = a[t] * (scale[n] / 127 * sum over k of q[t, k] integer[k, n])
 *
 * The sum is exact whatever the order, given kernels that integer-kernels.ts has found to be exact. q is stored as unsigned bytes
 * around 128, for which ONNX Runtime has the faster kernels; integers as signed bytes, or as unsigned ones around 128 as well. A token
 * of zeros gives 0/0 and so any q, but a factor of 0.
 */
function int8Layers(graph: OnnxGraph, arithmetic: IntegerArithmetic, at: string): LinearLayers {
  const [quantum, zeroPoint, channels] = [`${at}quantum`, `${at}zero_point`, `${at}channels`];
  graph.constant(quantum, DataType.float, [], Float32Array.of(1 / LARGEST));
  graph.constant(zeroPoint, DataType.uint8, [], Uint8Array.of(ZERO_POINT));
  graph.constant(channels, DataType.int64, [1], BigInt64Array.of(-1n));

  /** The largest magnitude of each token, `[..., 1]`. */
  const magnitude = (input: string, from: "attended" | undefined): string => {
    const largest = `${input}.largest`;
    graph.node("Abs", [input], [`${input}.abs`]);
    graph.node("ReduceMax", [`${input}.abs`, channels], [largest], { keepdims: 1 });
    if (from === undefined) return largest;
    // ReduceMax passes over NaN and a quantised NaN is a number: a head that overflowed would go on as garbage. The mean is never
    // larger than the largest magnitude but is NaN if any value is, and Max keeps that.
    graph.node("ReduceMean", [input, channels], [`${input}.mean`], { keepdims: 1 });
    graph.node("Max", [largest, `${input}.mean`], [`${input}.magnitude`]);
    return `${input}.magnitude`;
  };

  const multiply = (input: string, weight: string, output: string, from?: "attended"): void => {
    const factor = magnitude(input, from);
    graph.node("Div", [input, factor], [`${input}.relative`]);
    graph.node("QuantizeLinear", [`${input}.relative`, quantum, zeroPoint], [`${input}.quantized`]);
    const zeroPoints = arithmetic === "int8-u8u8" ? [zeroPoint, zeroPoint] : [zeroPoint];
    graph.contrib("MatMulIntegerToFloat", [`${input}.quantized`, `${weight}.integers`, quantum, `${weight}.scales`, ...zeroPoints], [`${output}.relative`]);
    graph.node("Mul", [`${output}.relative`, factor], [output]);
  };
  return { conv1d: multiply, head: (input, _weight, output) => multiply(input, "head", output) };
}
