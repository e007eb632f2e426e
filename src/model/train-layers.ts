/**
 * GPT-2's layers with their derivatives. Each returns its value and a pullback, which adds the nodes that turn the
 * gradient of the value into the gradient of the input. Weights are frozen, so they have no gradients.
 */
import type { Activation } from "./checkpoint.ts";
import type { Expressions } from "./graph-expressions.ts";

export type Pullback = (gradient: string) => string;
export type WithPullback = readonly [value: string, pullback: Pullback];

/** `[n, in] -> [n, out]` by a Conv1D weight `[in, out]`. */
export function linear(e: Expressions, x: string, at: string): WithPullback {
  const [weight, bias] = [`${at}.weight`, `${at}.bias`];
  // Gemm reads the same weight transposed: as fast as a second, transposed copy.
  return [e.op("Gemm", [x, weight, bias]), (dy) => e.op("Gemm", [dy, weight], { transB: 1 })];
}

/**
 * Over the last axis. With x' = (x - mean) / deviation and d = dy * gamma:
 *
 *     dx = (d - mean(d) - x' * mean(d * x')) / deviation
 */
export function layerNorm(e: Expressions, x: string, at: string, epsilon: number): WithPullback {
  const inputs = [x, `${at}.weight`, `${at}.bias`];
  const [y, mean, inverse] = e.ops("LayerNormalization", inputs, 3, { axis: -1, epsilon: { float: epsilon } });
  return [
    y!,
    (dy) => {
      const normed = e.multiply(e.subtract(x, mean!), inverse!);
      const d = e.multiply(dy, `${at}.weight`);
      const meanOfD = e.reduce("ReduceMean", d, -1);
      const alongNormed = e.multiply(normed, e.reduce("ReduceMean", e.multiply(d, normed), -1));
      return e.multiply(e.subtract(e.subtract(d, meanOfD), alongNormed), inverse!);
    },
  ];
}

export const ACTIVATION_LAYERS: Readonly<Record<Activation, (e: Expressions, u: string) => WithPullback>> = {
  gelu_new: tanhGelu,
  gelu_pytorch_tanh: tanhGelu,
  gelu: erfGelu,
  relu,
};

/**
 * 0.5 u (1 + tanh(SLOPE / 2 * (u + CUBIC u^3))) = u sigmoid(SLOPE u (1 + CUBIC u^2)) (transformers' NewGELUActivation).
 */
const SLOPE = 2 * Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;

/** With s = sigmoid(SLOPE u (1 + CUBIC u^2)): du = dy (s + s (1 - s) u SLOPE (1 + 3 CUBIC u^2)). */
function tanhGelu(e: Expressions, u: string): WithPullback {
  return [
    e.contrib("FastGelu", u),
    (dy) => {
      const square = e.multiply(u, u);
      const polynomial = (cubic: number): string =>
        e.multiply(u, e.add(e.multiply(square, e.number(SLOPE * cubic)), e.number(SLOPE)));
      const s = e.op("Sigmoid", [polynomial(CUBIC)]);
      const slopeOfSigmoid = e.subtract(s, e.multiply(s, s));
      return e.multiply(dy, e.add(s, e.multiply(slopeOfSigmoid, polynomial(3 * CUBIC))));
    },
  ];
}

/** y = u Phi(u), with the normal distribution's Phi and density phi: du = dy (Phi(u) + u phi(u)). */
function erfGelu(e: Expressions, u: string): WithPullback {
  const erf = e.op("Erf", [e.multiply(u, e.number(Math.SQRT1_2))]);
  const phi = e.multiply(e.add(erf, e.number(1)), e.number(0.5));
  return [
    e.multiply(u, phi),
    (dy) => {
      const exponential = e.op("Exp", [e.multiply(e.multiply(u, u), e.number(-0.5))]);
      const density = e.multiply(exponential, e.number(1 / Math.sqrt(2 * Math.PI)));
      return e.multiply(dy, e.add(phi, e.multiply(u, density)));
    },
  ];
}

/** The slope at 0 is 0, as torch's. */
function relu(e: Expressions, u: string): WithPullback {
  return [e.op("Relu", [u]), (dy) => e.op("Where", [e.op("Greater", [u, e.number(0)]), dy, e.number(0)])];
}
