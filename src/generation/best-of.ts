import type { ChoiceDelta } from "./types.ts";

/**
 * Of each prompt's `generated` choices (in a row, prompt after prompt) the `n` of the highest score, best first and numbered anew; of
 * equal ones the earlier.
 */
export function bestChoices(choices: readonly ChoiceDelta[], generated: number, n: number): ChoiceDelta[] {
  const best: ChoiceDelta[] = [];
  for (let from = 0; from < choices.length; from += generated) {
    const ranked = choices
      .slice(from, from + generated)
      .sort((a, b) => (b.score ?? -Infinity) - (a.score ?? -Infinity));
    for (const choice of ranked.slice(0, n)) best.push({ ...choice, index: best.length });
  }
  return best;
}
