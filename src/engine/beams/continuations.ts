import type { LogitsProcessors } from "../sampling/processors.ts";
import type { Row } from "../sampling/logits-row.ts";
import { topScores } from "../sampling/top-scores.ts";

/** A beam that needs its next token. */
export interface OpenBeam {
  /** Sum of the processed log probabilities of its tokens, in fp32. */
  readonly score: number;
  readonly row: Row;
  readonly processors: LogitsProcessors;
}

/** A beam, by index, with one more token. */
export interface Continuation {
  readonly beam: number;
  readonly id: number;
  readonly score: number;
}

/**
 * The `count` best continuations of all beams, best first: transformers' log_softmax, logits processors, sum with the
 * beam's score, topk over `[beams * vocabulary]`, in fp32; equal scores by beam, then id (torch leaves their order
 * open). Excludes tokens that the processors rule out.
 * @throws MaskPending; PrefixdError model_failed if a row's logits are not numbers
 */
export function bestContinuations(beams: readonly OpenBeam[], count: number, renormalize: boolean): Continuation[] {
  const found = beams.flatMap(({ score, row, processors }, beam) =>
    topScores(row, processors, count, renormalize)
      .filter((token) => token.score !== -Infinity)
      .map((token): Continuation => ({ beam, id: token.id, score: Math.fround(token.score + score) })),
  );
  return found.sort((a, b) => b.score - a.score || a.beam - b.beam || a.id - b.id).slice(0, count);
}
