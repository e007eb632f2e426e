/** Scores of one row that are known without reading all of its logits, and the memory for them and for whole rows. */
import { FullScores } from "./full-logits.ts";
import type { LogitsProcessors } from "./processors.ts";
import type { Row } from "./logits-row.ts";
import { WarpedTokens } from "./warped-tokens.ts";
import { NOTHING, type Outside, tempered } from "./probability.ts";

/** A candidate list has room for this many times its candidates, for tokens that processors raise. */
const ROOM = 4;

/** Memory for rows of one vocabulary size. Choosing is synchronous, so it is shared. */
interface Scratch {
  readonly full: FullScores;
  readonly list: WarpedTokens;
}

const scratches = new Map<number, Scratch>();
const candidateLists = new Map<number, WarpedTokens>();

/**
 * Fills the list with the candidates and with tokens that processors raise above the last of them, by processed score.
 * Returns false if it is empty or has no room. `offset` is subtracted from every logit first: 0, or the row's
 * log-sum-exp for log-probabilities. Not for forced ids.
 */
export function listKnown(list: WarpedTokens, row: Row, processors: LogitsProcessors, offset: number): boolean {
  const { candidates } = row;
  const last = Math.fround(row.lastLogit - offset);
  const { idle } = processors;
  list.reset();
  for (let rank = 0; rank < candidates; rank++) {
    const id = row.topId(rank);
    const raw = Math.fround(row.topLogit(rank) - offset);
    const score = idle ? raw : processors.score(id, raw);
    if (score !== -Infinity) list.insert(id, score);
  }
  let room = true;
  if (processors.mayRaise) {
    const logits = row.logits();
    processors.forEachChanged((id) => {
      const score = processors.score(id, Math.fround(logits[id]! - offset));
      if (!(score > last) || row.isCandidate(id, logits[id]!)) return;
      if (list.length < list.ids.length) list.insert(id, score);
      else room = false;
    });
  }
  return room && list.length > 0;
}

/**
 * The tokens that may come where ids are forced, by processed score. Needs nothing from the model. Empty if all are
 * forbidden.
 */
export function listForced(forced: readonly number[], processors: LogitsProcessors): WarpedTokens {
  const list = new WarpedTokens(forced.length);
  for (const id of forced) {
    const score = processors.score(id, 0);
    if (score !== -Infinity) list.insert(id, score);
  }
  return list;
}

/** Others lie below, unless a cold temperature has left them no weight at all, and what they weigh is not known. */
export function unknownBelow(score: number, temperature: number): Outside {
  const bound = tempered(score, temperature);
  return bound === -Infinity ? NOTHING : { bound, weight: NaN, error: NaN, moment: NaN };
}

export function scratchFor(vocabSize: number): Scratch {
  let scratch = scratches.get(vocabSize);
  if (scratch === undefined) {
    scratch = { full: new FullScores(vocabSize), list: new WarpedTokens(vocabSize) };
    scratches.set(vocabSize, scratch);
  }
  return scratch;
}

export function candidateListFor(candidates: number): WarpedTokens {
  let list = candidateLists.get(candidates);
  if (list === undefined) {
    list = new WarpedTokens(candidates * ROOM);
    candidateLists.set(candidates, list);
  }
  return list;
}
