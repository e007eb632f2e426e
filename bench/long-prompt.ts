/**
 * What do 31 running streams feel of a prompt of 900 tokens, and what does the bound on it cost the one who sends it?
 *
 *     npm run bench -- long-prompt
 *
 * GPT-2 small through the engine, without HTTP, with several values of --prefill-chunk in turn. 31 requests with a short prompt stream;
 * when all of them do, the time between their tokens is noted for some steps ("before"), then from the arrival of the long prompt
 * until its first token ("during").
 */
import { DEVICE_PRECISIONS } from "../src/config.ts";
import type { Engine } from "../src/engine/engine.ts";
import type { RequestHandle } from "../src/engine/request.ts";
import { benchRequest, newEngine, openSized, promptIds, randomPrefix, THREADS } from "./support/gpt2.ts";
import { machine, median, quantile, table, writeSection } from "./support/report.ts";

const PRECISIONS = DEVICE_PRECISIONS.cpu;
const CHUNKS = [16, 32, 64, 128] as const;
/** Of --prefill-chunk (src/config.ts). */
const DEFAULT_CHUNK = 64;
const ASKED = 2;
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const STREAMS = 31;
const LONG = 900;
const SHORT = 4;
const STEPS_BEFORE = 20;
const ENDLESS = 900;

interface Figures {
  readonly p50Before: number;
  readonly p99Before: number;
  readonly p50: number;
  readonly p99: number;
  readonly firstToken: number;
}

const measured = new Map<string, Figures[]>();
for (let round = 0; round < ROUNDS; round++) {
  for (const precision of PRECISIONS) {
    await using model = await openSized("gpt2", STREAMS + 1, precision);
    const prefix = randomPrefix(model.shape, 10, 1);
    for (const chunk of round % 2 === 0 ? CHUNKS : [...CHUNKS].reverse()) {
      const engine = newEngine(model.runner, { prefillChunk: chunk });
      const key = `${precision} ${chunk}`;
      measured.set(key, [...(measured.get(key) ?? []), await arrival(engine, prefix)]);
      await engine.drain(0);
      process.stderr.write(`round ${round + 1} of ${ROUNDS}, ${key}\n`);
    }
  }
}

const mid = (precision: string, chunk: number, name: keyof Figures): number => median(measured.get(`${precision} ${chunk}`)!.map((figures) => figures[name]));
/** Median over the rounds of p99 while the prompt is fed over p50 before. */
const worst = (precision: string, chunk: number): number => median(measured.get(`${precision} ${chunk}`)!.map(({ p99, p50Before }) => p99 / p50Before));
const ms = (value: number): string => `${value.toFixed(0)} ms`;
const rows = PRECISIONS.flatMap((precision) => CHUNKS.map((chunk) => {
  const of = (name: keyof Figures): string => ms(mid(precision, chunk, name));
  return [precision, chunk, of("p50Before"), of("p99Before"), of("p50"), of("p99"), worst(precision, chunk).toFixed(2), of("firstToken")];
}));
const verdicts = PRECISIONS.map((precision) => {
  const met = worst(precision, DEFAULT_CHUNK) <= ASKED;
  const start = `${precision}: ${met ? "met" : "not met"} with the default of ${DEFAULT_CHUNK} (${worst(precision, DEFAULT_CHUNK).toFixed(2)})`;
  const largest = CHUNKS.findLast((chunk) => worst(precision, chunk) <= ASKED);
  if (largest === undefined) return `${start}, and with none of the others.`;
  if (largest === DEFAULT_CHUNK) return `${start}, the largest that meets it.`;
  const cost = mid(precision, largest, "firstToken") / mid(precision, DEFAULT_CHUNK, "firstToken");
  return `${start}; the largest that meets it is ${largest}, with ${cost.toFixed(2)} of the long prompt's time to first token.`;
});
writeSection("long-prompt", [
  `GPT-2 small (124M, random weights), ${THREADS} threads, ${STREAMS} streams with prefixes of 10, one prompt of ${LONG}; medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
  "",
  `Asked: p99 of the others' inter-token latency while the prompt is fed at most ${ASKED} times their median before. ${verdicts.join(" ")}`,
  "",
  ...table(["", "--prefill-chunk", "before: p50", "p99", "during: p50", "p99", "p99 during / p50 before", "long prompt's TTFT"], rows),
  "",
  `A prompt takes ${LONG} / chunk steps, each a decode step of all streams and one piece of prompt: p99 is the longest of them, the last, whose piece attends to all that came before.`,
]);
console.log(rows.map((row) => row.join("  ")).join("\n"), `\n${verdicts.join("\n")}`);
process.exit(0);

/** Times between two tokens of the same stream, and the long prompt's time to first token, in ms. */
function arrival(engine: Engine, prefix: ReturnType<typeof randomPrefix>): Promise<Figures> {
  const [before, during]: number[][] = [[], []];
  return new Promise((resolve, reject) => {
    const handles: RequestHandle[] = [];
    const last = new Float64Array(STREAMS);
    let streaming = 0;
    let sentAt = 0;
    let ended = false;
    const onFinish = (): void => {};
    const onError = (error: Error): void => void (ended || reject(error));
    const end = (): void => {
      const firstToken = performance.now() - sentAt;
      ended = true;
      for (const handle of handles) handle.cancel("cancelled");
      resolve({ p50Before: quantile(before!, 0.5), p99Before: quantile(before!, 0.99), p50: quantile(during!, 0.5), p99: quantile(during!, 0.99), firstToken });
    };
    const sendLong = (): void => {
      sentAt = performance.now();
      const listener = { onToken: (): "stop" => (end(), "stop"), onFinish, onError };
      handles.push(engine.submit(benchRequest({ promptIds: promptIds(LONG, 99), maxNewTokens: 2 }), listener));
    };
    for (let stream = 0; stream < STREAMS; stream++) {
      const onToken = (): "continue" => {
        const now = performance.now();
        if (last[stream] === 0) streaming++;
        else if (sentAt > 0) during!.push(now - last[stream]!);
        else if (streaming === STREAMS && before!.push(now - last[stream]!) === STEPS_BEFORE * STREAMS) sendLong();
        last[stream] = now;
        return "continue";
      };
      handles.push(engine.submit(benchRequest({ promptIds: promptIds(SHORT, stream), prefix, maxNewTokens: ENDLESS }), { onToken, onFinish, onError }));
    }
  });
}
