import type { Gpt2Config } from "./checkpoint.ts";
import type { TrainedKind } from "./train-graph.ts";

/**
 * Estimates the memory of one run of the training graph beyond the weights, in bytes: what the backward pass reads of
 * every layer, what a layer needs for the moment, and logits with their probabilities.
 */
export function trainRunBytes(
  { layers, heads, width, inner, vocabSize }: Gpt2Config,
  kind: TrainedKind,
  virtualTokens: number,
  rows: number,
  fed: number,
  targets: number,
): number {
  const length = fed + (kind === "prompt" ? virtualTokens : 0);
  const seen = fed + virtualTokens;
  const tokens = rows * length;
  const attention = heads * seen;
  // Two residuals, query, key and value, the attention's output; the MLP's input; the attention's probabilities.
  const kept = 6 * width + inner + attention;
  const moment = 6 * width + 4 * inner + 3 * attention;
  return 4 * (tokens * (layers * kept + moment) + 3 * targets * vocabSize);
}
