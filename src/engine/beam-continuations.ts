import { processedScore, type Processing } from "./logits.ts";
import type { StepOutput } from "./model-runner.ts";
import { logprobOf, notFinite, scratchFor } from "./sampler.ts";

/** A beam whose next token is looked for. */
export interface OpenBeam {
  /** Sum of the processed log probabilities of its tokens, in fp32. */
  readonly score: number;
  /** Its row of the step's output. */
  readonly row: number;
  readonly processing: Processing;
}

/** A beam, by its index, with one token more. */
export interface Continuation {
  readonly beam: number;
  readonly id: number;
  readonly score: number;
}

/**
 * The `count` best continuations of all beams, best first: transformers' log_softmax, logits processors, sum with the beam's score,
 * topk over `[beams * vocabulary]`, in fp32; equal scores by beam, then id (torch leaves their order open). Tokens that the
 * processors rule out are none. The model's few best candidates of a row suffice when even the best token that is not among them
 * scores below all that is found; else the whole row is read.
 * @throws PrefixdError model_failed if a row's logits are not numbers
 */
export function bestContinuations(output: StepOutput, beams: readonly OpenBeam[], count: number): Continuation[] {
  const { topLogits, topIds, logSumExp } = output;
  // The buffers may be longer than `rows`, all by the same factor.
  const candidates = topIds.length / logSumExp.length;
  const found: Continuation[] = [];
  const bounds = beams.map(({ score, row, processing }, beam) => {
    const [from, to] = [row * candidates, (row + 1) * candidates];
    const sum = logSumExp[row]!;
    if (!Number.isFinite(sum) || !Number.isFinite(topLogits[from])) throw notFinite();
    for (let at = from; at < to; at++) add(found, beam, topIds[at]!, processedScore(logSoftmax(topLogits[at]!, sum), topIds[at]!, processing), score);
    return mayRaise(processing) ? Infinity : Math.fround(logSoftmax(topLogits[to - 1]!, sum) + score);
  });
  found.sort(byScore);
  const worst = found[count - 1]?.score ?? -Infinity;
  const undecided = new Set([...bounds.keys()].filter((beam) => bounds[beam]! >= worst));
  if (undecided.size === 0) return found.slice(0, count);
  const all = found.filter(({ beam }) => !undecided.has(beam));
  for (const beam of undecided) addFromWholeRow(all, output, beam, beams[beam]!, count);
  return all.sort(byScore).slice(0, count);
}

/** At least the `count` best continuations of one beam. */
function addFromWholeRow(found: Continuation[], output: StepOutput, beam: number, { row, score, processing }: OpenBeam, count: number): void {
  const sum = output.logSumExp[row]!;
  const logprobs = output.logits(row).map((logit) => logSoftmax(logit, sum));
  const { full, list } = scratchFor(logprobs.length);
  full.load(logprobs, processing);
  full.listTop(count, list);
  for (let i = 0; i < list.length; i++) add(found, beam, list.ids[i]!, list.scores[i]!, score);
}

function add(found: Continuation[], beam: number, id: number, tokenScore: number, beamScore: number): void {
  if (tokenScore !== -Infinity) found.push({ beam, id, score: Math.fround(tokenScore + beamScore) });
}

/** Whether the processors can lift a token above others: then what is no candidate may come all the same. */
function mayRaise({ repetitionPenalty }: Processing): boolean {
  return repetitionPenalty < 1;
}

const logSoftmax = (logit: number, logSumExp: number): number => Math.fround(logprobOf(logit, logSumExp));

const byScore = (a: Continuation, b: Continuation): number => b.score - a.score || a.beam - b.beam || a.id - b.id;
