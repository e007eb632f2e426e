/**
 * How much does a stream lose beside others whose tokens take long to sample?
 *
 *     npm run bench -- heavy-rows
 *
 * One stream decodes greedily beside 24 rows of another user: plain ones, or ones with every processor and warper over
 * GPT-2's whole vocabulary. Without HTTP.
 */
import { benchRequest, newEngine, openSized, promptIds } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { DEFAULT_SAMPLING, type SamplingParams } from "../src/engine/request.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const [OTHERS, TOKENS] = [24, Number(process.env["TOKENS"] ?? 60)];
const HEAVY: SamplingParams = {
  ...DEFAULT_SAMPLING,
  doSample: true,
  topK: 0,
  topP: 0.95,
  typicalP: 0.95,
  etaCutoff: 1e-4,
  repetitionPenalty: 1.2,
  presencePenalty: 0.5,
  frequencyPenalty: 0.5,
  noRepeatNgramSize: 3,
  logitBias: new Map(Array.from({ length: 512 }, (_, id) => [id, 1])),
};
const OTHER_ROWS = { nobody: null, "24 plain rows": DEFAULT_SAMPLING, "24 heavy rows": HEAVY };
type Case = keyof typeof OTHER_ROWS;
const CASES = Object.keys(OTHER_ROWS) as Case[];

await using model = await openSized("gpt2", OTHERS + 1);
const rates = new Map<Case, { stream: number; others: number }[]>(CASES.map((name) => [name, []]));
for (let round = -1; round < ROUNDS; round++) {
  for (const name of CASES) {
    const rate = await beside(OTHER_ROWS[name]);
    process.stderr.write(`${name}: ${rate.stream.toFixed(1)} and ${rate.others.toFixed(1)} tokens/s\n`);
    // The first round compiles and calibrates.
    if (round >= 0) rates.get(name)!.push(rate);
  }
}
const plain = rates.get("24 plain rows")!;
const rows = CASES.map((name) => [
  name,
  median(rates.get(name)!.map(({ stream }) => stream)).toFixed(1),
  median(rates.get(name)!.map(({ stream }, round) => stream / plain[round]!.stream)).toFixed(2),
  median(rates.get(name)!.map(({ others }) => others)).toFixed(0),
]);
const text = table(
  ["beside", "the stream's tokens/s", "of that beside plain rows", "the others' tokens/s together"],
  rows,
);
console.log(text.join("\n"));
writeSection("heavy-rows", [
  `GPT-2 small with random weights, fp32, 2 threads, contexts of about ${16 + TOKENS}; medians of ${ROUNDS} interleaved rounds. The heavy rows draw with every penalty, \`no_repeat_ngram_size\`, \`typical_p\`, \`top_p\`, \`eta_cutoff\` and 512 biases. ${machine()}.`,
  "",
  ...text,
]);
process.exit(0);

/** Tokens per second from the stream's fourth part, when the engine knows the others' cost, to its last. */
async function beside(sampling: SamplingParams | null): Promise<{ stream: number; others: number }> {
  const engine = newEngine(model.runner);
  let others = 0;
  let waiting = sampling === null ? 0 : OTHERS;
  let begin = (): void => {};
  const running = new Promise<void>((resolve) => (begin = resolve));
  if (waiting === 0) begin();
  const handles = Array.from({ length: waiting }, (_, row) =>
    engine.submit(
      benchRequest({
        tenant: "others",
        promptIds: promptIds(16, row + 2),
        maxNewTokens: 900,
        sampling: sampling!,
        seed: row,
      }),
      {
        onStart: () => void (--waiting === 0 && begin()),
        onToken: () => (others++, "continue"),
        onFinish: () => undefined,
        onError: () => undefined,
      },
    ),
  );
  await running;
  const result = await new Promise<{ stream: number; others: number }>((resolve, reject) => {
    let tokens = 0;
    let from = { at: 0, others: 0 };
    engine.submit(benchRequest({ tenant: "stream", promptIds: promptIds(16, 1), maxNewTokens: TOKENS }), {
      onToken: () => {
        if (++tokens === TOKENS >> 2) from = { at: performance.now(), others };
        return "continue";
      },
      onFinish: () => {
        const seconds = (performance.now() - from.at) / 1000;
        resolve({ stream: (TOKENS - (TOKENS >> 2)) / seconds, others: (others - from.others) / seconds });
      },
      onError: reject,
    });
  });
  for (const handle of handles) handle.cancel("cancelled");
  await engine.drain(0);
  return result;
}
