/**
 * The network behind a prefix while it is trained, dropped afterwards (Li & Liang 2021, section 4.3; PEFT's
 * PrefixEncoder with prefix_projection):
 *
 *     prefix [P, 2 L E] = tanh(embedding [P, E] W0^T + b0) W2^T + b2
 */
import type { Binding, Runtime, Session, Tensor } from "../runtime/session.ts";
import type { Gpt2Config } from "./checkpoint.ts";
import { Expressions } from "./graph-expressions.ts";
import { DataType, OnnxGraph } from "./onnx-writer.ts";

export interface NetworkTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
  readonly gradient: Float32Array;
}

export interface PrefixNetworkOptions {
  readonly config: Gpt2Config;
  readonly virtualTokens: number;
  /** encoder_hidden_size */
  readonly hidden: number;
  readonly threads: number;
}

/** Names as PEFT's, without its prefix. */
const NAMES = [
  "embedding.weight",
  "transform.0.weight",
  "transform.0.bias",
  "transform.2.weight",
  "transform.2.bias",
] as const;
type Name = (typeof NAMES)[number];

export class PrefixNetwork implements Disposable {
  /** Weights as torch keeps them: `[out, in]`. */
  readonly tensors: ReadonlyMap<Name, NetworkTensor>;
  readonly #forward: readonly [Session, Binding];
  readonly #backward: readonly [Session, Binding];
  readonly #owned: Disposable[] = [];

  /**
   * @param prefix `[L, 2, H, P, D]`, written by `forward`
   * @param gradient of the prefix, the same shape, read by `backward`
   */
  constructor(runtime: Runtime, options: PrefixNetworkOptions, prefix: Float32Array, gradient: Float32Array) {
    const { config, virtualTokens, hidden, threads } = options;
    const shapes = shapesOf(config, virtualTokens, hidden);
    this.tensors = new Map(
      NAMES.map((name) => {
        const shape = shapes[name];
        const count = shape.reduce((product, size) => product * size, 1);
        return [name, { shape, values: new Float32Array(count), gradient: new Float32Array(count) }];
      }),
    );
    const tensor = (data: Float32Array, shape: readonly number[]): Tensor => this.#own(runtime.tensor(data, shape));
    const prefixShape = [config.layers, 2, config.heads, virtualTokens, config.headDim];
    const activations = tensor(new Float32Array(virtualTokens * hidden), [virtualTokens, hidden]);
    const values = this.#tensors((name, { values, shape }) => [name, tensor(values, shape)]);
    const gradients = this.#tensors((name, { gradient, shape }) => [`d.${name}`, tensor(gradient, shape)]);
    const bound = (graph: OnnxGraph, inputs: Record<string, Tensor>, outputs: Record<string, Tensor>) => {
      const session = this.#own(runtime.session(graph.encode(), { threads }));
      return [session, this.#own(session.binding(inputs, outputs))] as const;
    };
    this.#forward = bound(forwardGraph(shapes, prefixShape), values, {
      activations,
      prefix: tensor(prefix, prefixShape),
    });
    const weights = Object.fromEntries(Object.entries(values).filter(([name]) => name.endsWith(".weight")));
    this.#backward = bound(
      backwardGraph(shapes, prefixShape),
      { ...weights, activations, gradient: tensor(gradient, prefixShape) },
      gradients,
    );
  }

  /** Values to prefix. */
  forward(): void {
    this.#forward[0].runNow(this.#forward[1]);
  }

  /** The prefix's gradient to those of the values, as of the last `forward`. */
  backward(): void {
    this.#backward[0].runNow(this.#backward[1]);
  }

  [Symbol.dispose](): void {
    for (const one of this.#owned.splice(0).reverse()) one[Symbol.dispose]();
  }

  #tensors(of: (name: Name, tensor: NetworkTensor) => [string, Tensor]): Record<string, Tensor> {
    return Object.fromEntries([...this.tensors].map(([name, tensor]) => of(name, tensor)));
  }

  #own<T extends Disposable>(one: T): T {
    this.#owned.push(one);
    return one;
  }
}

type Shapes = Readonly<Record<Name, readonly number[]>>;

function shapesOf({ layers, width }: Gpt2Config, virtualTokens: number, hidden: number): Shapes {
  const out = 2 * layers * width;
  return {
    "embedding.weight": [virtualTokens, width],
    "transform.0.weight": [hidden, width],
    "transform.0.bias": [hidden],
    "transform.2.weight": [out, hidden],
    "transform.2.bias": [out],
  };
}

/** @param prefixShape L, 2, H, P, D */
function forwardGraph(shapes: Shapes, prefixShape: readonly number[]): OnnxGraph {
  const graph = new OnnxGraph("prefix_network", "");
  const e = new Expressions(graph);
  for (const name of NAMES) graph.input(name, DataType.float, shapes[name]);
  const linear = (x: string, at: string): string => e.op("Gemm", [x, `${at}.weight`, `${at}.bias`], { transB: 1 });
  graph.node("Tanh", [linear("embedding.weight", "transform.0")], ["activations"]);
  const [layers, two, heads, length, headDim] = prefixShape as [number, number, number, number, number];
  // Each token's values are ordered by layer, key or value, head (PEFT's get_prompt).
  const apart = e.reshape(linear("activations", "transform.2"), [length, layers * two, heads, headDim]);
  graph.node("Reshape", [e.transpose(apart, 1, 2, 0, 3), e.integers(...prefixShape)], ["prefix"]);
  graph.output("activations", DataType.float, [length, shapes["transform.0.bias"][0]!]);
  graph.output("prefix", DataType.float, prefixShape);
  return graph;
}

/**
 * With h = tanh(z) and dy the gradient of the flat prefix: dW2 = dy^T h, dz = (dy W2) (1 - h^2), dW0 = dz^T embedding.
 */
function backwardGraph(shapes: Shapes, prefixShape: readonly number[]): OnnxGraph {
  const graph = new OnnxGraph("prefix_network_backward", "");
  const e = new Expressions(graph);
  const [layers, two, heads, length, headDim] = prefixShape as [number, number, number, number, number];
  for (const name of ["embedding.weight", "transform.0.weight", "transform.2.weight"] as const)
    graph.input(name, DataType.float, shapes[name]);
  graph.input("activations", DataType.float, [length, shapes["transform.0.bias"][0]!]);
  graph.input("gradient", DataType.float, prefixShape);
  const apart = e.reshape("gradient", [layers * two, heads, length, headDim]);
  const dy = e.reshape(e.transpose(apart, 2, 0, 1, 3), [length, -1]);
  const dActivations = e.op("Gemm", [dy, "transform.2.weight"]);
  const slope = e.subtract(e.number(1), e.multiply("activations", "activations"));
  const dz = e.multiply(dActivations, slope);
  const ofLinear = (at: "transform.0" | "transform.2", dOut: string, input: string): void => {
    graph.node("Gemm", [dOut, input], [`d.${at}.weight`], { transA: 1 });
    graph.node("ReduceSum", [dOut, e.integers(0)], [`d.${at}.bias`], { keepdims: 0 });
  };
  ofLinear("transform.2", dy, "activations");
  ofLinear("transform.0", dz, "embedding.weight");
  graph.node("Gemm", [dz, "transform.0.weight"], ["d.embedding.weight"]);
  for (const name of NAMES) graph.output(`d.${name}`, DataType.float, shapes[name]);
  return graph;
}
