/**
 * What does sampling one token cost, in microseconds per row, for common settings?
 *
 *     npm run bench -- sampler
 *
 * Rows have GPT-2's vocabulary and logits that fall with the logarithm of the rank, as a language model's do, from
 * peaked to flat, plus noise; tokens are in random order. The prompt has 100 tokens, half of them among each row's 200
 * likeliest, so that penalties and n-grams hit candidates. Every setting processes all rows many times; medians of
 * rounds of processor time.
 */
import type { StepOutput } from "../src/engine/runner.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../src/engine/request.ts";
import { Sampler } from "../src/engine/sampling/sampler.ts";
import { machine, median, table, writeSection } from "./support/report.ts";

const VOCABULARY = 50_257;
const CANDIDATES = 64;
const STEEPNESS = [4, 2.5, 1.8, 1.5, 1.3, 1.15];
const TOKENS = Number(process.env["TOKENS"] ?? 600);
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);

const sample = { doSample: true, topK: 0 } as const;
const SETTINGS: readonly (readonly [string, Partial<SamplingParams>])[] = [
  ["greedy", {}],
  ["greedy, repetition_penalty 1.1", { repetitionPenalty: 1.1 }],
  ["greedy, repetition_penalty 0.9", { repetitionPenalty: 0.9 }],
  ["greedy, no_repeat_ngram_size 2", { noRepeatNgramSize: 2 }],
  ["greedy, logit_bias of 10 tokens", { logitBias: new Map(Array.from({ length: 10 }, (_, i) => [i * 1000, i - 4])) }],
  ["greedy, suppress_tokens of 100", { suppressIds: Array.from({ length: 100 }, (_, i) => i * 500) }],
  [
    "greedy, sequence_bias of 10 pairs",
    { sequenceBias: Array.from({ length: 10 }, (_, i) => ({ ids: [i * 1000, i * 2000], bias: -2 })) },
  ],
  ["sampling, defaults (top_k 50)", { doSample: true }],
  ["T 0.7, top_k 50, top_p 0.9", { doSample: true, temperature: 0.7, topP: 0.9 }],
  ["repetition_penalty 1.1, top_k 50", { doSample: true, repetitionPenalty: 1.1 }],
  ["presence and frequency 0.5, top_k 50", { doSample: true, presencePenalty: 0.5, frequencyPenalty: 0.5 }],
  ["no_repeat_ngram_size 2, top_k 50", { doSample: true, noRepeatNgramSize: 2 }],
  [
    "logit_bias of 10 tokens, top_k 50",
    { doSample: true, logitBias: new Map(Array.from({ length: 10 }, (_, i) => [i * 1000, i - 4])) },
  ],
  ["typical_p 0.9, top_k 50", { doSample: true, typicalP: 0.9 }],
  ["top_k 0", sample],
  ["top_k 0, repetition_penalty 1.1", { ...sample, repetitionPenalty: 1.1 }],
  ["top_k 0, top_p 0.9", { ...sample, topP: 0.9 }],
  ["top_k 0, T 0.7, top_p 0.9", { ...sample, temperature: 0.7, topP: 0.9 }],
  ["top_k 0, min_p 0.05", { ...sample, minP: 0.05 }],
  ["top_k 0, T 1.5", { ...sample, temperature: 1.5 }],
  ["top_k 0, T 1.5, top_p 0.9", { ...sample, temperature: 1.5, topP: 0.9 }],
  ["top_k 0, typical_p 0.9", { ...sample, typicalP: 0.9 }],
  ["top_k 0, top_h 0.6", { ...sample, topH: 0.6 }],
  ["top_k 200", { doSample: true, topK: 200 }],
];

const random = numbers(1);
const rows = STEEPNESS.map((steepness) => row(steepness));
const prompt = Int32Array.from({ length: 100 }, (_, i) => {
  if (i % 2 === 0) return Math.floor(random() * VOCABULARY);
  return rows[i % rows.length]!.likeliest[Math.floor(random() * 200)]!;
});

let asked = false;
const output: StepOutput = {
  rows: rows.length,
  candidates: CANDIDATES,
  topLogits: Float32Array.from(
    rows.flatMap(({ logits, likeliest }) => likeliest.slice(0, CANDIDATES).map((id) => logits[id]!)),
  ),
  topIds: Int32Array.from(rows.flatMap(({ likeliest }) => likeliest.slice(0, CANDIDATES))),
  logSumExp: Float32Array.from(rows, ({ logits }) => Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))),
  logits(row) {
    asked = true;
    return rows[row]!.logits;
  },
};

const figures = SETTINGS.map(() => ({ times: [] as number[], reads: 0 }));
for (let round = -1; round < ROUNDS; round++) {
  for (const [index, [, given]] of SETTINGS.entries()) {
    const { times } = figures[index]!;
    const samplers = rows.map((_, row) => new Sampler({ ...DEFAULT_SAMPLING, ...given }, round + 2, row, prompt, []));
    let reads = 0;
    const started = process.cpuUsage();
    for (let token = 0; token < TOKENS; token++) {
      asked = false;
      samplers[token % rows.length]!.next(output, (token + Math.floor(token / rows.length)) % rows.length, 0);
      if (asked) reads++;
    }
    if (round >= 0) times.push(process.cpuUsage(started).user / TOKENS);
    figures[index]!.reads = reads / TOKENS;
  }
}

const lines = SETTINGS.map(([name], index) => [
  name,
  median(figures[index]!.times).toFixed(1),
  `${(100 * figures[index]!.reads).toFixed(0)} %`,
]);
writeSection("sampler", [
  `Microseconds of processor time per token at a vocabulary of ${VOCABULARY.toLocaleString("en")}, ${CANDIDATES} candidates, medians of ${ROUNDS} rounds. ${machine()}.`,
  "",
  ...table(["setting", "µs / row", "tokens that needed more than the candidates"], lines),
]);
console.log(lines.map((line) => line.join("  ")).join("\n"));

/**
 * Logits that fall by `steepness` times the logarithm of the rank, with noise; and the ids in descending order of
 * logit.
 */
function row(steepness: number): { logits: Float32Array; likeliest: number[] } {
  const logits = new Float32Array(VOCABULARY);
  const places = Array.from({ length: VOCABULARY }, (_, id) => ({ id, key: random() })).sort((a, b) => a.key - b.key);
  for (const [rank, { id }] of places.entries())
    logits[id] = -30 - steepness * Math.log(rank + 1) + (random() + random() - 1) * 2;
  return { logits, likeliest: Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b) };
}

/** Uniform numbers in [0, 1), the same in every run (Lehmer generator). */
function numbers(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 48271) % 2147483647) / 2147483647;
}
