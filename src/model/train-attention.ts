/** Causal attention over a shared prefix and the row's own tokens, written out, with its derivatives. */
import type { Expressions } from "./graph-expressions.ts";

/** Names of the inputs that attention needs; S is a row's tokens, P the prefix's, T = P + S. */
export interface AttentionInputs {
  /** int64: S, B, 3, H, D */
  readonly qkvShape: string;
  /** int64: S, B, H, D */
  readonly headShape: string;
  /** fp32 `[1, 1, S, T]`, added to the scores: 0, or very negative where a key may not be seen. */
  readonly mask: string;
  readonly width: number;
}

/** A layer's prefix: keys and values `[1, H, P, D]`, the same for every row. */
export interface LayerPrefix {
  readonly key: string;
  readonly value: string;
  /** int64: P, B, H, D */
  readonly expandedShape: string;
  /** int64: P, S */
  readonly lengths: string;
}

export interface AttentionGradients {
  /** `[S B, 3 E]`; null if it was not asked for. */
  readonly qkv: string | null;
  /** `[2, H, P, D]`; null without a prefix. */
  readonly prefix: string | null;
}

export interface Attention {
  /** `[S B, E]` */
  readonly attended: string;
  /** @param intoTokens whether the gradient of `qkv` is needed; false in the layer below which nothing is trained */
  backward(dAttended: string, intoTokens: boolean): AttentionGradients;
}

/**
 * With scores A = softmax(q k^T + mask) and output o = A v, per head:
 *
 *     dv = A^T do    dS = A * (do v^T - rowsum(do * o))    dk = dS^T q    dq = dS k
 *
 * @param qkv `[S B, 3 E]`; the queries are already times the attention's scale (graph-weights.ts, `scaledQueries`)
 */
export function attention(
  e: Expressions,
  qkv: string,
  prefix: LayerPrefix | null,
  { qkvShape, headShape, mask, width }: AttentionInputs,
): Attention {
  // With the tokens first, ONNX Runtime's products on the CPU read the heads where they lie: these cost nothing there.
  const byHead = (x: string): string => e.transpose(x, 1, 2, 0, 3); // [S, B, H, D] -> [B, H, S, D]
  const byHeadTransposed = (x: string): string => e.transpose(x, 1, 2, 3, 0); // -> [B, H, D, S]
  const parts = e.ops("Split", [e.reshape(qkv, qkvShape)], 3, { axis: 2, num_outputs: 3 });
  const [q, ownKeys, ownValues] = parts.map((part) => e.reshape(part, headShape)) as [string, string, string];
  const behindPrefix = (shared: string, own: string): string =>
    prefix === null
      ? own
      : e.op("Concat", [e.op("Expand", [e.transpose(shared, 2, 0, 1, 3), prefix.expandedShape]), own], { axis: 0 });
  const k = behindPrefix(prefix?.key ?? "", ownKeys); // [T, B, H, D]
  const v = behindPrefix(prefix?.value ?? "", ownValues);
  const a = e.op("Softmax", [e.add(e.matmul(byHead(q), byHeadTransposed(k)), mask)], { axis: -1 }); // [B, H, S, T]
  const o = e.transpose(e.matmul(a, byHead(v)), 2, 0, 1, 3); // [S, B, H, D]

  const split = (x: string, axis: number): string[] => e.ops("Split", [x, prefix!.lengths], 2, { axis });
  const ofPrefix = (dk: string, dv: string): string =>
    e.op("Concat", [e.reduce("ReduceSum", dk, 0), e.reduce("ReduceSum", dv, 0)], { axis: 0 });
  return {
    attended: e.reshape(o, [-1, width]),
    backward(dAttended, intoTokens) {
      const dO = e.reshape(dAttended, headShape); // [S, B, H, D]
      const alongO = byHead(e.reduce("ReduceSum", e.multiply(dO, o), -1)); // [B, H, S, 1]
      const dS = (a: string, v: string): string =>
        e.multiply(a, e.subtract(e.matmul(byHead(dO), byHeadTransposed(v)), alongO));
      if (!intoTokens) {
        const [prefixA, prefixV] = [split(a, 3)[0]!, split(v, 0)[0]!];
        const dk = e.matmul(e.transposed(dS(prefixA, prefixV)), byHead(q));
        return { qkv: null, prefix: ofPrefix(dk, e.matmul(e.transposed(prefixA), byHead(dO))) };
      }
      const scores = dS(a, v);
      const dq = e.matmul(scores, byHead(k));
      const dk = e.matmul(e.transposed(scores), byHead(q));
      const dv = e.matmul(e.transposed(a), byHead(dO));
      const [[dkPrefix, dkOwn], [dvPrefix, dvOwn]] =
        prefix === null
          ? [
              ["", dk],
              ["", dv],
            ]
          : [split(dk, 2), split(dv, 2)];
      const dParts = e.transpose(e.stack([dq, dkOwn!, dvOwn!]), 3, 1, 0, 2, 4); // [S, B, 3, H, D]
      return {
        qkv: e.reshape(dParts, [-1, 3 * width]),
        prefix: prefix === null ? null : ofPrefix(dkPrefix!, dvPrefix!),
      };
    },
  };
}
