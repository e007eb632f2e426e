import { Row } from "./sampling/logits-row.ts";
import type { StepOutput } from "./runner.ts";
import type { EngineRequest, PromptScore } from "./request.ts";
import { reportOf } from "./sampling/sampler.ts";

/**
 * The scores of a prompt's tokens that one chunk's output gives. `output` has a row per token of the chunk, from prompt
 * token `from` on, and each row scores the token after it. The prompt's first token has no score, even behind a prefix:
 * keys and values have no output.
 * @throws PrefixdError model_failed if logits are not numbers
 */
export function promptScores(
  { promptIds, topLogprobs }: Pick<EngineRequest, "promptIds" | "topLogprobs">,
  output: StepOutput,
  from: number,
): PromptScore[] {
  const tokens: PromptScore[] = from === 0 ? [{ id: promptIds[0]!, logprob: null, top: [] }] : [];
  for (let row = 0; row < output.rows; row++) {
    const id = promptIds[from + row + 1];
    if (id === undefined) break;
    tokens.push(reportOf(new Row(output, row), id, topLogprobs));
  }
  return tokens;
}
