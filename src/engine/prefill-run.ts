import type { ModelRunner, StepOutput } from "./runner.ts";
import type { PrefillChunk } from "./scheduling/plan.ts";
import type { Job } from "./sequence.ts";

/**
 * Feeds chunks of prompts in one run. Asks for output only where it is needed: for each prompt's last token, or for all
 * of a scored one's.
 */
export function runChunks(runner: ModelRunner, chunks: readonly PrefillChunk<Job>[]): Promise<StepOutput> {
  const prompts = chunks.map(({ request, from, to }) => ({
    row: request.row,
    start: request.prefixLength + from,
    ids: request.request.promptIds.subarray(from, to),
  }));
  if (prompts.length > 1) return runner.prefillAll(prompts);
  const [{ request, last }, { row, start, ids }] = [chunks[0]!, prompts[0]!];
  return runner.prefill(row, start, ids, last || request.answers === "all" ? request.answers : "none");
}
