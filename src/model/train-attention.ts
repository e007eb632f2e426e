/** Causal attention over a shared prefix and the row's own tokens, written out, with its derivatives. */
import type { Expressions } from "./graph-expressions.ts";

/** Names of the inputs that attention needs; S is a row's tokens, P the prefix's, T = P + S. */
export interface AttentionInputs {
  /** int64: B, S, 3, H, D */
  readonly qkvShape: string;
  /** int64: B, S, H, D */
  readonly headShape: string;
  /** fp32 `[1, 1, S, T]`, added to the scores: 0, or very negative where a key may not be seen. */
  readonly mask: string;
  readonly width: number;
}

/** A layer's prefix: keys and values `[H, P, D]`, the same for every row. */
export interface LayerPrefix {
  readonly key: string;
  readonly value: string;
  /** int64: B, H, P, D */
  readonly expandedShape: string;
  /** int64: P, S */
  readonly lengths: string;
}

export interface AttentionGradients {
  /** `[B S, 3 E]`; null if it was not asked for. */
  readonly qkv: string | null;
  /** `[2, H, P, D]`; null without a prefix. */
  readonly prefix: string | null;
}

export interface Attention {
  /** `[B S, E]` */
  readonly attended: string;
  /** @param intoTokens whether the gradient of `qkv` is needed; false in the layer below which nothing is trained */
  backward(dAttended: string, intoTokens: boolean): AttentionGradients;
}

/**
 * With scores A = softmax(q k^T + mask) and output o = A v, per head:
 *
 *     dv = A^T do    dS = A * (do v^T - rowsum(do * o))    dk = dS^T q    dq = dS k
 *
 * @param qkv `[B S, 3 E]`; the queries are already times the attention's scale (graph-weights.ts, `scaledQueries`)
 */
export function attention(
  e: Expressions,
  qkv: string,
  prefix: LayerPrefix | null,
  { qkvShape, headShape, mask, width }: AttentionInputs,
): Attention {
  const parts = e.transpose(e.reshape(qkv, qkvShape), 2, 0, 3, 1, 4); // [3, B, H, S, D]
  const [q, ownKeys, ownValues] = [0, 1, 2].map((part) => e.select(parts, 0, part)) as [string, string, string];
  const behindPrefix = (shared: string, own: string): string =>
    prefix === null ? own : e.op("Concat", [e.op("Expand", [shared, prefix.expandedShape]), own], { axis: 2 });
  const k = behindPrefix(prefix?.key ?? "", ownKeys); // [B, H, T, D]
  const v = behindPrefix(prefix?.value ?? "", ownValues);
  const a = e.op("Softmax", [e.add(e.matmul(q, e.transposed(k)), mask)], { axis: -1 }); // [B, H, S, T]
  const o = e.matmul(a, v); // [B, H, S, D]

  const split = (x: string, axis: number): string[] => e.ops("Split", [x, prefix!.lengths], 2, { axis });
  const ofPrefix = (dk: string, dv: string): string =>
    e.op("Concat", [e.reduce("ReduceSum", dk, 0), e.reduce("ReduceSum", dv, 0)], { axis: 0 });
  return {
    attended: e.reshape(e.transpose(o, 0, 2, 1, 3), [-1, width]),
    backward(dAttended, intoTokens) {
      const dO = e.transpose(e.reshape(dAttended, headShape), 0, 2, 1, 3);
      const alongO = e.reduce("ReduceSum", e.multiply(dO, o), -1);
      const dS = (a: string, v: string): string => e.multiply(a, e.subtract(e.matmul(dO, e.transposed(v)), alongO));
      if (!intoTokens) {
        const [prefixA, prefixV] = [split(a, 3)[0]!, split(v, 2)[0]!];
        const dk = e.matmul(e.transposed(dS(prefixA, prefixV)), q);
        return { qkv: null, prefix: ofPrefix(dk, e.matmul(e.transposed(prefixA), dO)) };
      }
      const scores = dS(a, v);
      const [dq, dk, dv] = [e.matmul(scores, k), e.matmul(e.transposed(scores), q), e.matmul(e.transposed(a), dO)];
      const [[dkPrefix, dkOwn], [dvPrefix, dvOwn]] =
        prefix === null
          ? [
              ["", dk],
              ["", dv],
            ]
          : [split(dk, 2), split(dv, 2)];
      const dParts = e.transpose(e.stack([dq, dkOwn!, dvOwn!]), 1, 3, 0, 2, 4); // [B, S, 3, H, D]
      return {
        qkv: e.reshape(dParts, [-1, 3 * width]),
        prefix: prefix === null ? null : ofPrefix(dkPrefix!, dvPrefix!),
      };
    },
  };
}
