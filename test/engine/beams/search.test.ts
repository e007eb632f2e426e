/** The search against transformers' algorithm written out over whole vocabularies, without candidates and without rows. */
import t from "tap";
import { BeamSearch, type BeamRequest, type BeamResult } from "../../../src/engine/beams/search.ts";
import { uniform } from "../../../src/engine/sampling/random.ts";
import type { BeamParams, TokenStop } from "../../../src/engine/request.ts";
import { effort } from "../../support/effort.ts";
import { seededRandom } from "../../support/model.ts";
import { GREEDY, type History, plainDistribution, plainScores, stepOutput } from "../sampling/sampler-fixture.ts";

const VOCAB = 40;
const EOS = [3, 17];
const CASES = effort({ short: 150, long: 1000 });

/** Logits after some tokens: anything, but always the same; small steps make equal ones common. */
function logitsAfter(seed: number, ids: readonly number[], step: number): Float32Array {
  const random = seededRandom(ids.reduce((hash, id) => Math.imul(hash ^ (id + 1), 0x9e3779b1) >>> 0, seed + 1));
  return Float32Array.from({ length: VOCAB }, () => Math.round((random() * 6 - 3) / step) * step);
}

/** Ends where the sum of the ids is a multiple of 13. */
function stopAt(sum: number): TokenStop {
  return { after: (id) => ((sum + id) % 13 === 0 ? null : stopAt(sum + id)) };
}

interface Case {
  readonly seed: number;
  readonly step: number;
  readonly request: BeamRequest;
  readonly params: BeamParams;
}

function randomCase(random: () => number, seed: number): Case {
  const below = (limit: number): number => Math.floor(random() * limit);
  const pick = <T>(...values: T[]): T => values[below(values.length)]!;
  const maxNewTokens = 1 + below(9);
  return {
    seed,
    step: pick(1e-6, 1e-6, 0.5),
    params: {
      numBeams: 2 + below(6),
      lengthPenalty: pick(1, 0, 2, -1, 0.6),
      earlyStopping: pick<boolean | "never">(false, true, "never"),
    },
    request: {
      promptIds: Int32Array.from({ length: 1 + below(4) }, () => below(VOCAB)),
      maxNewTokens,
      seed,
      topLogprobs: 0,
      eosIds: pick([], EOS.slice(0, 1), EOS),
      beamStop: pick(null, null, stopAt(0)),
      sampling: {
        ...GREEDY,
        repetitionPenalty: pick(1, 1, 1.4, 0.6),
        frequencyPenalty: pick(0, 0, 0.3, -0.2),
        noRepeatNgramSize: pick(0, 0, 1, 2),
        badWords: Array.from({ length: below(4) }, () => Array.from({ length: 1 + below(2) }, () => below(VOCAB))),
        logitBias: new Map(Array.from({ length: below(3) }, () => [below(VOCAB), below(5) - 2])),
        minNewTokens: below(maxNewTokens),
        sequenceBias: pick(
          [],
          [],
          [
            { ids: [below(VOCAB)], bias: 1.5 },
            { ids: [below(VOCAB), below(VOCAB)], bias: -2 },
          ],
        ),
        suppressIds: pick([], [], [below(VOCAB)]),
        beginSuppressIds: pick([], [], [below(VOCAB), below(VOCAB)]),
        forcedBosId: pick(null, null, below(VOCAB)),
        forcedLast: pick(
          null,
          null,
          { ids: [EOS[0]!], index: maxNewTokens - 1 },
          { ids: [EOS[0]!, 5], index: maxNewTokens - 1 },
        ),
        exponentialDecay: pick(null, null, { start: 1, factor: pick(0.8, 1.2) }),
        renormalize: pick(false, false, true),
        doSample: pick(false, true),
        temperature: pick(1, 0.7, 1.6),
        topH: pick(null, null, null, 0.6),
        topK: pick(0, 0, 3, 12),
        topP: pick(1, 1, 0.8),
        minP: pick(0, 0, 0.05),
        typicalP: pick(1, 1, 0.7),
        epsilonCutoff: pick(0, 0, 0.03),
        etaCutoff: pick(0, 0, 0.03),
      },
    },
  };
}

/** The search as it is, fed with whole rows of which it sees only a few candidates unless it asks. */
function run({ seed, step, request, params }: Case, candidates: number): { results: BeamResult[]; reads: number } {
  const search = new BeamSearch(request, params);
  let paths: number[][] = [[]];
  let reads = 0;
  while (!search.done) {
    const output = stepOutput(
      paths.map((path) => logitsAfter(seed, path, step)),
      candidates,
      2,
    );
    const { parents, ids } = search.step(output, [...paths.keys()]);
    reads += output.reads;
    paths = parents.map((parent, beam) => [...paths[parent]!, ids[beam]!]);
  }
  return { results: search.results(search.found), reads };
}

interface PlainBeam {
  readonly ids: number[];
  readonly score: number;
  readonly finished: boolean;
}

/** `_beam_search` line by line for a batch of one, with its large negative numbers; equal scores by their index. */
function plain({ seed, step, request, params }: Case): PlainBeam[] {
  const { numBeams, lengthPenalty, earlyStopping } = params;
  const { eosIds, maxNewTokens, sampling, promptIds, beamStop } = request;
  const f = Math.fround;
  const top = <T extends { score: number }>(list: readonly T[], k: number): T[] =>
    list
      .map((one, index) => ({ one, index }))
      .sort((a, b) => b.one.score - a.one.score || a.index - b.index)
      .slice(0, k)
      .map(({ one }) => one);
  let running: PlainBeam[] = Array.from({ length: numBeams }, (_, beam) => ({
    ids: [],
    score: beam === 0 ? 0 : -1e9,
    finished: false,
  }));
  let sequences: PlainBeam[] = running.map(() => ({ ids: [], score: -1e9, finished: false }));
  for (let generated = 0; ; ) {
    const all = running.map(({ ids, score }) => {
      const logits = logitsAfter(seed, ids, step);
      const sum = stepOutput([logits], 1).logSumExp[0]!;
      const scores = processed(
        logits.map((logit) => logit - sum),
        sampling,
        { prompt: [...promptIds], generated: ids, eosIds },
      );
      return Array.from(
        scores,
        (logprob, id): PlainBeam => ({ ids: [...ids, id], score: f(logprob + score), finished: false }),
      );
    });
    const count = Math.max(2, 1 + eosIds.length) * numBeams;
    const best = sampling.doSample ? draw(all, count, seed, generated * count) : top(all.flat(), count);
    generated++;
    const stops = (ids: readonly number[]): boolean =>
      beamStop !== null && ids.reduce((sum, id) => sum + id, 0) % 13 === 0;
    const hits = best.map(({ ids }) => eosIds.includes(ids.at(-1)!) || stops(ids) || generated >= maxNewTokens);
    if (best.length === 0) return sequences;
    running = top(
      best.map((beam, index) => ({ ...beam, score: f(beam.score + (hits[index] ? -1e9 : 0)) })),
      numBeams,
    );
    const ended = best.map((beam, index) => {
      const finished = hits[index]! && index < numBeams;
      return {
        ids: beam.ids,
        score: f(f(beam.score / f(generated ** lengthPenalty)) + (finished ? 0 : -1e9)),
        finished,
      };
    });
    sequences = top([...sequences, ...ended], numBeams);
    const length = earlyStopping === "never" && lengthPenalty > 0 ? maxNewTokens : generated;
    const possible = f(running[0]!.score / f(length ** lengthPenalty));
    const least = Math.min(...sequences.map(({ score }) => score));
    const improvable = sequences.some(({ finished }) => possible > (finished ? least : -1e9));
    const all_finished = sequences.every(({ finished }) => finished);
    if (!improvable || (all_finished && earlyStopping === true) || hits.every(Boolean)) return sequences;
  }
}

/** Log-probabilities after all processors and warpers; what they leave out has -Infinity. */
function processed(logprobs: Float32Array, params: BeamRequest["sampling"], history: History): Float32Array {
  let scores = plainScores(logprobs, params, history);
  if (params.doSample) {
    const kept = new Set(
      plainDistribution(logprobs, params, history, history.eosIds.length === 0 ? 2 : 1 + history.eosIds.length).map(
        ({ id }) => id,
      ),
    );
    scores = scores.map((score, id) => (kept.has(id) ? score / Math.fround(params.temperature) : -Infinity));
  }
  if (!params.renormalize) return scores;
  const best = scores.reduce((a, b) => Math.max(a, b));
  const logMass = Math.fround(Math.log(scores.reduce((sum, score) => sum + Math.exp(Math.fround(score - best)), 0)));
  return best === -Infinity ? scores : scores.map((score) => Math.fround(score - best) - logMass);
}

/** One after another without replacement, over beams in order and their tokens likeliest first. */
function draw(beams: readonly PlainBeam[][], count: number, seed: number, from: number): PlainBeam[] {
  const left = beams.flatMap((beam) =>
    beam.filter(({ score }) => score !== -Infinity).sort((a, b) => b.score - a.score),
  );
  const best = Math.max(...left.map(({ score }) => score));
  const drawn: PlainBeam[] = [];
  while (drawn.length < count) {
    const mass = left.reduce((sum, { score }) => sum + Math.exp(score - best), 0);
    if (mass === 0) break;
    const aim = uniform(seed, 0, from + drawn.length) * mass;
    let sum = 0;
    const at = left.findIndex(({ score }) => (sum += Math.exp(score - best)) > aim);
    drawn.push(...left.splice(at, 1));
  }
  return drawn;
}

t.test("random searches equal a reference implementation, with ties and insufficient candidates", (t) => {
  const random = seededRandom(9);
  let reads = 0;
  let different = 0;
  let [drawn, stopped] = [0, 0];
  for (let seed = 0; seed < CASES; seed++) {
    const one = randomCase(random, seed);
    // What has run on from no beam at all is not told.
    const expected = plain(one)
      .filter(({ score }) => score > -1e8)
      .map(({ ids, score }) => ({ ids, score }));
    if (one.request.sampling.doSample) drawn++;
    if (one.request.beamStop !== null) stopped++;
    for (const candidates of [VOCAB, 12, 4]) {
      const { results, reads: asked } = run(one, candidates);
      reads += asked;
      const got = results.map(({ tokens, score }) => ({ ids: tokens.map(({ id }) => id), score }));
      if (JSON.stringify(got) !== JSON.stringify(expected)) {
        different++;
        if (different < 3)
          t.same(
            got,
            expected,
            JSON.stringify({ candidates, ...one.params, ...one.request, promptIds: [...one.request.promptIds] }),
          );
      }
    }
  }
  t.equal(different, 0);
  t.ok(reads > 0.3 * CASES, `${reads} whole rows were asked for`);
  t.ok(drawn > 0.3 * CASES && stopped > 0.2 * CASES, `${drawn} were drawn, ${stopped} had stop strings`);
  t.end();
});

for (const doSample of [false, true])
  t.test(
    `without processors sixteen beams never need a whole row of 64 candidates${doSample ? ", nor do draws with top_k" : ""}`,
    (t) => {
      const logits = (path: readonly number[]): Float32Array => {
        const random = seededRandom(path.reduce((hash, id) => hash * 31 + id, 7));
        return Float32Array.from({ length: 500 }, () => random() * 12);
      };
      const request: BeamRequest = {
        promptIds: Int32Array.of(1),
        maxNewTokens: 12,
        seed: 0,
        topLogprobs: 0,
        eosIds: [4],
        beamStop: null,
        sampling: { ...GREEDY, doSample, topK: 50 },
      };
      const search = new BeamSearch(request, { numBeams: 16, lengthPenalty: 1, earlyStopping: false });
      let paths: number[][] = [[]];
      while (!search.done) {
        const output = stepOutput(paths.map(logits), 64);
        const { parents, ids } = search.step(output, [...paths.keys()]);
        t.equal(output.reads, 0);
        paths = parents.map((parent, beam) => [...paths[parent]!, ids[beam]!]);
      }
      t.equal(search.results(16).length, 16);
      t.end();
    },
  );

t.test("non-finite logits are a model failure", (t) => {
  const search = new BeamSearch(
    {
      promptIds: Int32Array.of(1),
      maxNewTokens: 3,
      seed: 0,
      topLogprobs: 0,
      eosIds: [],
      beamStop: null,
      sampling: GREEDY,
    },
    { numBeams: 2, lengthPenalty: 1, earlyStopping: false },
  );
  t.throws(() => search.step(stepOutput([new Float32Array(VOCAB).fill(NaN)], 4), [0]), { code: "model_failed" });
  t.end();
});
