import type { BeamSearch } from "./search.ts";
import { planForks } from "./fork-plan.ts";
import type { StepOutput } from "../runner.ts";
import type { Job, Sequence } from "../sequence.ts";

/**
 * One step of a request's beam search: its first sequences become the rows of the surviving beams. Results are reported
 * when the search is done. `outputRow`: a sequence's row of the output; `copyRow`: copies a sequence's row in the
 * cache.
 * @throws MaskPending; PrefixdError model_failed, invalid_parameter (fewer sequences are possible than asked for)
 */
export function advanceBeams(
  request: Job,
  output: StepOutput,
  outputRow: (sequence: Sequence) => number,
  copyRow: (from: Sequence, to: Sequence) => void,
): void {
  const { sequences, search } = request;
  if (search === null) return;
  const { parents, ids } = search.step(output, sequences.slice(0, search.width).map(outputRow));
  request.tell((listener) => listener.onBeamStep?.(request.rows));
  if (request.ended) return;
  if (search.done) return tellResults(request, search);
  // A search with fewer beams for a while keeps its rows: spare ones duplicate its best beam, and their output is
  // ignored.
  const { rows, copies } = planForks(
    sequences.map((_, row) => parents[row] ?? parents[0]!),
    sequences.length,
  );
  for (const { from, to } of copies) copyRow(sequences[from]!, sequences[to]!);
  request.sequences = rows.map((row) => sequences[row]!);
  for (const [beam, sequence] of request.sequences.entries()) sequence.lastId = ids[beam] ?? ids[0]!;
}

function tellResults(request: Job, search: BeamSearch): void {
  const results = search.results(request.request.n);
  request.freeRows();
  for (const [choice, { tokens, reason, score }] of results.entries()) {
    for (const token of tokens) if (!request.ended) request.tell((listener) => listener.onToken({ choice, ...token }));
    if (!request.ended) request.finishChoice(choice, reason, score);
  }
}
