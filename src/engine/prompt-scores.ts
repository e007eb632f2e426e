import { Row } from "./sampling/logits-row.ts";
import type { StepOutput } from "./runner.ts";
import type { EngineRequest, PromptScore } from "./request.ts";
import { reportOf } from "./sampling/sampler.ts";

/**
 * What a scored chunk of a prompt (`output` has a row for each of its tokens, the first being prompt token `from`) says of the prompt's
 * tokens: each row judges the token after it. The prompt's first token has nothing before it that the model answers for, with a prefix
 * neither: keys and values have no output.
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
