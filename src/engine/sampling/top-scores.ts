import { listOnly } from "./full-logits.ts";
import { listForced, scratchFor } from "./known-scores.ts";
import type { LogitsProcessors } from "./processors.ts";
import { NotFiniteError, type Row } from "./logits-row.ts";
import type { WarpedTokens } from "./warped-tokens.ts";

/** A token and its processed log-probability. */
export interface ScoredToken {
  readonly id: number;
  readonly score: number;
}

/**
 * The `count` best tokens of a row by processed log-probability, best first, equal ones by ascending id: what one beam
 * offers. In beam search transformers takes the log-softmax first and processes that; `renormalize`: and makes it a
 * log-softmax again. Fewer if the processors forbid the others. From the candidates where they provably suffice, else
 * from all logits. Throws MaskPending, `model_failed` if logits are not numbers.
 */
export function topScores(row: Row, processors: LogitsProcessors, count: number, renormalize: boolean): ScoredToken[] {
  if (processors.forced !== null) {
    const list = listForced(processors.forced, processors);
    if (renormalize) list.normalise();
    return firstOf(list, count);
  }
  // The candidates do not tell the total weight of all tokens after processors.
  const known = renormalize ? null : topOfCandidates(row, processors, count);
  if (known !== null) return known;
  const logits = row.logits();
  const { full, list } = scratchFor(logits.length);
  const { allowed } = processors;
  if (allowed !== null) {
    if (!listOnly(allowed, logits, processors, row.logSumExp, list)) throw new NotFiniteError();
    if (renormalize) list.normalise();
    return firstOf(list, count);
  }
  full.loadLogprobs(logits, row.logSumExp, processors, 1);
  if (full.broken) throw new NotFiniteError();
  if (renormalize) full.normalise();
  full.listTop(count, list);
  return firstOf(list, count);
}

/** null if they do not suffice. */
function topOfCandidates(row: Row, processors: LogitsProcessors, count: number): ScoredToken[] | null {
  const { topLogits, topIds, logSumExp } = row;
  const known = Array.from(topIds, (id, i) => ({
    id,
    score: processors.score(id, Math.fround(topLogits[i]! - logSumExp)),
  }));
  if (processors.mayRaise) {
    const logits = row.logits();
    processors.forEachChanged((id) => {
      if (!row.isCandidate(id, logits[id]!))
        known.push({ id, score: processors.score(id, Math.fround(logits[id]! - logSumExp)) });
    });
  }
  known.sort((a, b) => b.score - a.score || a.id - b.id);
  const last = known[count - 1];
  // Different logits may have equal log-probabilities in fp32: only those above the last candidate's are certain.
  return last !== undefined && last.score > Math.fround(row.lastLogit - logSumExp) ? known.slice(0, count) : null;
}

function firstOf(list: WarpedTokens, count: number): ScoredToken[] {
  return Array.from(list.ids.subarray(0, Math.min(count, list.length)), (id, i) => ({ id, score: list.scores[i]! }));
}
