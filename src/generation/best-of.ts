import type { ChoiceDelta } from "./types.ts";

/**
 * The `n` choices with the highest score out of each prompt's `generated` ones, best first and renumbered; ties go to
 * the earlier one. `choices` holds all prompts' choices, prompt after prompt.
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
