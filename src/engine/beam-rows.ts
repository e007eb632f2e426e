import type { BeamSearch } from "./beam-search.ts";
import { planForks } from "./fork-rows.ts";
import type { StepOutput } from "./model-runner.ts";
import type { RunningRequest, Sequence } from "./sequence.ts";

/**
 * One step of a request's beam search: its sequences become the rows of the beams that go on, and the others are free. The search's
 * results are told when it is done. `outputRow`: where the output has a sequence's row; `copyRow`: copies what is in the cache.
 * @throws PrefixdError model_failed, invalid_parameter (fewer sequences are possible than asked for)
 */
export function advanceBeams(
  request: RunningRequest,
  output: StepOutput,
  outputRow: (sequence: Sequence) => number,
  copyRow: (from: Sequence, to: Sequence) => void,
): void {
  const { sequences, search } = request;
  if (search === null) return;
  const { parents, ids } = search.step(output, sequences.slice(0, search.width).map(outputRow));
  if (search.done) return tellResults(request, search);
  const { rows, copies } = planForks(parents, sequences.length);
  for (const { from, to } of copies) copyRow(sequences[from]!, sequences[to]!);
  request.sequences = rows.map((row) => sequences[row]!);
  for (const [beam, sequence] of request.sequences.entries()) sequence.lastId = ids[beam]!;
  for (const sequence of sequences) sequence.done = !request.sequences.includes(sequence);
}

function tellResults(request: RunningRequest, search: BeamSearch): void {
  const results = search.results(request.request.n);
  request.freeRows();
  for (const [choice, { tokens, reason, score }] of results.entries()) {
    for (const token of tokens) if (!request.ended) request.tell((listener) => listener.onToken({ choice, ...token }));
    if (!request.ended) request.finishChoice(choice, reason, score);
  }
}
