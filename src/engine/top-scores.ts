import { notFinite, scratchFor, type Row } from "./choose.ts";
import type { LogitsProcessors } from "./processors.ts";

/**
 * The `count` best tokens of a row by processed log-probability, best first, equal ones by ascending id: what one beam offers. In beam
 * search transformers takes the log-softmax first and processes that. Fewer if the processors forbid the others. From the candidates
 * where they provably suffice, else from all logits. Throws `model_failed` if logits are not numbers.
 */
export function topScores(row: Row, processors: LogitsProcessors, count: number): { id: number; score: number }[] {
  const { topLogits, topIds, logSumExp } = row;
  const known = Array.from(topIds, (id, i) => ({ id, score: processors.score(id, Math.fround(topLogits[i]! - logSumExp)) }));
  if (processors.mayRaise) {
    const logits = row.logits();
    processors.forEachChanged((id) => {
      if (!row.isCandidate(id, logits[id]!)) known.push({ id, score: processors.score(id, Math.fround(logits[id]! - logSumExp)) });
    });
  }
  known.sort((a, b) => b.score - a.score || a.id - b.id);
  const last = known[count - 1];
  // Two different logits may have one log-probability: only what is clearly above all others is sure.
  if (last !== undefined && last.score > Math.fround(row.lastLogit - logSumExp)) return known.slice(0, count);
  const logits = row.logits();
  const { full, list } = scratchFor(logits.length);
  full.loadLogprobs(logits, logSumExp, processors);
  if (full.broken) throw notFinite();
  full.listTop(count, list);
  return Array.from(list.ids.subarray(0, Math.min(count, list.length)), (id, i) => ({ id, score: list.scores[i]! }));
}
