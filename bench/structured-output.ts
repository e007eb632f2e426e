/**
 * What do constraints cost, with GPT-2's vocabulary?
 *
 *     npm run bench -- structured-output
 *
 * 32 rows, each on its own way through an answer, which begins anew when it has ended. Logits fall with the logarithm of the rank, tokens in
 * random order, so that the candidates are hardly ever of the form: the worst that a model can do. Cold: the masks have to be found. Warm: they
 * are known from the same answers. Medians and 99th percentiles of steps; a step chooses one token for each of the 32 rows, or, as in the
 * engine, leaves a row waiting when the step's work on masks is used up.
 */
import { DEFAULT_SAMPLING, type SamplingParams } from "../src/engine/request.ts";
import type { StepOutput } from "../src/engine/runner.ts";
import { MaskPending } from "../src/engine/constraint.ts";
import { Sampler } from "../src/engine/sampling/sampler.ts";
import { WORK_PER_STEP } from "../src/engine/scheduling/constraint-turns.ts";
import { seededRandom } from "../src/load/random.ts";
import type { Grammar } from "../src/structured/automaton/grammar.ts";
import { TokenTree } from "../src/structured/automaton/token-tree.ts";
import { drawConstraint, grammarOf, type ConstraintForm } from "../src/structured/constraint.ts";
import { DEFAULT_LIMITS } from "../src/structured/limits.ts";
import { Position } from "../src/structured/position.ts";
import { tryGrammar } from "../src/structured/trial.ts";
import { gpt2Tokens } from "../test/support/gpt2-vocabulary.ts";
import { machine, median, quantile, table, writeSection } from "./support/report.ts";

const ROWS = 32;
const CANDIDATES = 64;
const STEPS = Number(process.env["STEPS"] ?? 400);
/** The longest answer's bytes: GPT-2's positions, with its longest token. */
const LONGEST_TEXT = 1024 * 128;
const NO_LIMIT = 1e15;

const FORMS: readonly (readonly [name: string, form: ConstraintForm])[] = [
  [
    "JSON of a schema",
    {
      kind: "json",
      schema: {
        type: "object",
        properties: {
          intent: { enum: ["book flight", "weather", "play music", "alarm"] },
          date: { type: "string", format: "date" },
          persons: { type: "integer", minimum: 1, maximum: 9 },
          name: { type: "string" },
          tags: { type: "array", items: { type: "string", maxLength: 20 } },
        },
        required: ["intent", "date", "persons", "name", "tags"],
        additionalProperties: false,
      },
    },
  ],
  ["any JSON object", { kind: "json", schema: { type: "object" } }],
  [
    "one of 150 choices",
    {
      kind: "choice",
      texts: Array.from({ length: 150 }, (_, i) => `label ${"abcdefghij"[i % 10]}${(i * 7919) % 1000}`),
    },
  ],
  ["a date (regex)", { kind: "regex", source: "\\d{4}-\\d{2}-\\d{2}" }],
];
const SETTINGS: readonly (readonly [name: string, params: Partial<SamplingParams>])[] = [
  ["greedy", {}],
  ["top_k 50", { doSample: true }],
  ["top_p 0.9, no top_k", { doSample: true, topK: 0, topP: 0.9 }],
];

const tokens = gpt2Tokens();
const EOS = tokens.length - 1;
const tree = new TokenTree(tokens);
const random = seededRandom(1);
const rows = Array.from({ length: ROWS }, (_, index) => row(1.2 + 3 * (index / ROWS)));
/** Step `n` gives sequence `i` the logits of row `(i + n) % ROWS`. */
const output: StepOutput = {
  rows: ROWS,
  candidates: CANDIDATES,
  topLogits: Float32Array.from(rows.flatMap(({ logits, best }) => best.map((id) => logits[id]!))),
  topIds: Int32Array.from(rows.flatMap(({ best }) => best)),
  logSumExp: Float32Array.from(rows, ({ logits }) => Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit), 0))),
  logits: (index) => rows[index]!.logits,
};

const costs: string[][] = [];
const compiling: (string | number)[][] = [];
for (const [name, form] of FORMS) {
  const compileTimes: number[] = [];
  for (let round = 0; round < 20; round++) {
    const started = process.cpuUsage();
    compile(form);
    compileTimes.push(process.cpuUsage(started).user / 1000);
  }
  const grammar = compile(form);
  compiling.push([name, grammar.states, median(compileTimes).toFixed(1), 0]);
  for (const [setting, params] of SETTINGS) {
    // The compiler of JavaScript has seen it all before the measurement.
    steps(null, params, 0);
    steps(compile(form), params, 0);
    const without = steps(null, params, 1);
    const fresh = compile(form);
    const cold = steps(fresh, params, 1);
    const warm = steps(fresh, params, 1);
    const beside = steps(fresh, params, 1, true);
    costs.push([
      name,
      setting,
      shown(without.times),
      shown(cold.times),
      String(cold.waited),
      shown(warm.times),
      shown(beside.times),
    ]);
    compiling.at(-1)![3] = Math.round(fresh.bytes / 1024);
  }
}
const head = ["form", "sampling", "without", "cold", "rows that waited a step", "warm", "without, beside 32 warm rows"];
writeSection("structured-output", [
  `Milliseconds of processor time in a step of ${ROWS} rows, median / 99th percentile of ${STEPS}; ${tokens.length.toLocaleString("en")} tokens. ${machine()}.`,
  "",
  ...table(head, costs),
  "",
  ...table(["form", "states", "ms to compile and try", "KiB at the end"], compiling),
]);
console.log([...costs, ...compiling].map((line) => line.join("  ")).join("\n"));

function compile(form: ConstraintForm): Grammar {
  const limits = DEFAULT_LIMITS;
  const { grammar } = grammarOf(drawConstraint({ form, leadingSpace: true }, tree, limits), tree, limits, LONGEST_TEXT);
  Array.from(tryGrammar(grammar));
  return grammar;
}

/**
 * Runs all rows for STEPS steps; `grammar` null: without a constraint.
 * @param beside measures other rows, without a constraint, which are chosen in the same steps
 */
function steps(
  grammar: Grammar | null,
  params: Partial<SamplingParams>,
  seed: number,
  beside = false,
): { times: number[]; waited: number } {
  const sampling = { ...DEFAULT_SAMPLING, ...params };
  const begin = (constraint: Grammar | null, index: number): Sampler =>
    new Sampler(
      sampling,
      seed,
      index,
      new Int32Array(0),
      constraint === null ? [] : [EOS],
      constraint === null ? null : Position.start(constraint, NO_LIMIT),
    );
  const samplers = Array.from({ length: ROWS }, (_, index) => begin(grammar, index));
  const others = beside ? samplers.map((_, index) => begin(null, index)) : [];
  const times: number[] = [];
  let waited = 0;
  for (let step = 0; step < STEPS; step++) {
    let left = WORK_PER_STEP;
    let started = process.cpuUsage();
    for (const [index, sampler] of samplers.entries()) {
      const from = (index + step) % ROWS;
      for (let chosen = false; !chosen; ) {
        try {
          const { id } = sampler.next(output, from, 0);
          chosen = true;
          if (id === EOS || sampler.final) samplers[index] = begin(grammar, index + ROWS * step);
        } catch (error) {
          if (!(error instanceof MaskPending)) throw error;
          if (left <= 0) {
            waited++;
            break;
          }
          left -= sampler.work(left);
        }
      }
    }
    if (beside) {
      started = process.cpuUsage();
      for (const [index, sampler] of others.entries()) sampler.next(output, (index + step) % ROWS, 0);
    }
    times.push(process.cpuUsage(started).user / 1000);
  }
  return { times, waited };
}

function shown(times: readonly number[]): string {
  return `${median(times).toFixed(2)} / ${quantile(times, 0.99).toFixed(2)}`;
}

/** Logits that fall by `steepness` times the logarithm of the rank, and the best ids. */
function row(steepness: number): { logits: Float32Array; best: number[] } {
  const logits = new Float32Array(tokens.length);
  const keys = Float64Array.from(logits, () => random());
  const order = Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!);
  for (const [rank, id] of order.entries()) logits[id] = -30 - steepness * Math.log(rank + 1);
  return { logits, best: order.slice(0, CANDIDATES) };
}
