/**
 * How does a prompt of 900 tokens, or ten of them, affect 31 running streams, and what does limiting it cost its
 * sender?
 *
 *     npm run bench -- long-prompt
 *
 * GPT-2 small through the engine, without HTTP, with several values of --prefill-share in turn. 31 requests with a
 * short prompt stream. Once all of them do, the time between their tokens is recorded for some steps ("before"), then
 * from the arrival of the long prompt until its first token ("during"). With ten prompts the streams' contexts, and so
 * their steps, grow a lot meanwhile: there each step is compared with the decode run in it.
 */
import { DEVICE_PRECISIONS } from "../src/config-schema.ts";
import type { Engine } from "../src/engine/engine.ts";
import type { RequestHandle } from "../src/engine/request.ts";
import type { StepPhase } from "../src/observability/engine-observer.ts";
import { benchRequest, newEngine, openSized, promptIds, randomPrefix, THREADS } from "./support/gpt2.ts";
import { machineOfInt8, median, quantile, table, writeSection } from "./support/report.ts";

const PRECISIONS = DEVICE_PRECISIONS.cpu;
const SHARES = [0.3, 0.4, 0.5, 1] as const;
/** Defaults of --prefill-share and --prefill-chunk (src/config.ts). */
const DEFAULT_SHARE = 0.4;
const CHUNK = 64;
const ASKED = 2;
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const STREAMS = 31;
const LONG = 900;
const MANY = 10;
const SHORT = 4;
/** Steps until all streams are running, and steps recorded then. */
const STEPS_IGNORED = 3;
const STEPS_BEFORE = 20;
const ENDLESS = 900;

interface Figures {
  readonly p50Before: number;
  readonly p99Before: number;
  readonly p50: number;
  readonly p99: number;
  /** p99 of a step's time over that of the decode run in it. */
  readonly stretch: number;
  /** The long prompts' times to first token, in order. */
  readonly firstTokens: readonly number[];
}

const measured = new Map<string, Figures[]>();
const many = new Map<string, Figures>();
for (let round = 0; round < ROUNDS; round++) {
  for (const precision of PRECISIONS) {
    await using model = await openSized("gpt2", STREAMS + 1, precision);
    const prefix = randomPrefix(model.shape, 10, 1);
    const arrive = async (share: number, prompts: number): Promise<Figures> => {
      const steps: DecodeRun[] = [];
      const engine = newEngine(model.runner, { prefillChunk: CHUNK, prefillShare: share, observer: decodeRuns(steps) });
      const figures = await arrival(engine, prefix, prompts, steps);
      await engine.drain(0);
      process.stderr.write(`round ${round + 1} of ${ROUNDS}, ${precision}, share ${share}, ${prompts} prompts\n`);
      return figures;
    };
    for (const share of round % 2 === 0 ? SHARES : [...SHARES].reverse()) {
      const key = `${precision} ${share}`;
      measured.set(key, [...(measured.get(key) ?? []), await arrive(share, 1)]);
    }
    if (round === 0) many.set(precision, await arrive(DEFAULT_SHARE, MANY));
  }
}

const mid = (precision: string, share: number, of: (figures: Figures) => number): number =>
  median(measured.get(`${precision} ${share}`)!.map(of));
/** Median over the rounds of p99 while the prompt is fed over p50 before. */
const worst = (precision: string, share: number): number =>
  mid(precision, share, ({ p99, p50Before }) => p99 / p50Before);
const ms = (value: number): string => `${value.toFixed(0)} ms`;
const rows = PRECISIONS.flatMap((precision) =>
  SHARES.map((share) => {
    const of = (pick: (figures: Figures) => number): string => ms(mid(precision, share, pick));
    return [
      precision,
      share,
      of((one) => one.p50Before),
      of((one) => one.p99Before),
      of((one) => one.p50),
      of((one) => one.p99),
      worst(precision, share).toFixed(2),
      of((one) => one.firstTokens[0]!),
    ];
  }),
);
const manyRows = PRECISIONS.map((precision) => {
  const { stretch, firstTokens } = many.get(precision)!;
  const last = firstTokens.at(-1)!;
  return [precision, stretch.toFixed(2), ms(firstTokens[0]!), ms(last), (last / firstTokens[0]! / MANY).toFixed(2)];
});
const verdicts = PRECISIONS.map((precision) => {
  const met = worst(precision, DEFAULT_SHARE) <= ASKED;
  const cost =
    mid(precision, DEFAULT_SHARE, (one) => one.firstTokens[0]!) / mid(precision, 1, (one) => one.firstTokens[0]!);
  const all = `with ${MANY} prompts ${many.get(precision)!.stretch <= ASKED ? "met" : "not met"} (${many.get(precision)!.stretch.toFixed(2)})`;
  return `${precision}: ${met ? "met" : "not met"} with the default of ${DEFAULT_SHARE} (${worst(precision, DEFAULT_SHARE).toFixed(2)}), at ${cost.toFixed(2)} times the long prompt's time to first token without a bound; ${all}.`;
});
writeSection("long-prompt", [
  `GPT-2 small (124M, random weights), ${THREADS} threads, ${STREAMS} streams with prefixes of 10, one prompt of ${LONG}, --prefill-chunk ${CHUNK}; medians of ${ROUNDS} interleaved rounds. ${await machineOfInt8()}.`,
  "",
  `Goal: p99 of the others' inter-token latency while the prompt is fed at most ${ASKED} times their median before. ${verdicts.join(" ")}`,
  "",
  ...table(
    [
      "",
      "--prefill-share",
      "before: p50",
      "p99",
      "during: p50",
      "p99",
      "p99 during / p50 before",
      "long prompt's TTFT",
    ],
    rows,
  ),
  "",
  `A step is a decode step of all streams and a chunk of prompt. A chunk reads all weights and attends to all earlier positions, so chunks get shorter as the prompt advances. With a share of 1 chunks have ${CHUNK} tokens.`,
  "",
  `${MANY} prompts of ${LONG} at once, one row free, served one after the other; a step's time over that of the decode run in it:`,
  "",
  ...table(["", "p99", "first prompt's TTFT", "last's", `last's / ${MANY} firsts`], manyRows),
]);
console.log(
  rows.map((row) => row.join("  ")).join("\n"),
  `\n${manyRows.map((row) => row.join("  ")).join("\n")}\n${verdicts.join("\n")}`,
);
process.exit(0);

interface DecodeRun {
  readonly at: number;
  readonly milliseconds: number;
}

/** Records when each decode run ended and how long it took. */
function decodeRuns(
  runs: DecodeRun[],
): Parameters<typeof newEngine>[1] extends { observer?: infer Observer } | undefined ? NonNullable<Observer> : never {
  const step = (phase: StepPhase, _rows: number, _tokens: number, seconds: number): void => {
    if (phase === "decode") runs.push({ at: performance.now(), milliseconds: 1000 * seconds });
  };
  return { step, queued() {}, firstToken() {}, interToken() {}, finished() {} };
}

/** Inter-token times of the streams, and the long prompts' times to first token, in ms. */
function arrival(
  engine: Engine,
  prefix: ReturnType<typeof randomPrefix>,
  prompts: number,
  runs: readonly DecodeRun[],
): Promise<Figures> {
  const [before, during]: number[][] = [[], []];
  const firstTokens: number[] = [];
  return new Promise((resolve, reject) => {
    const handles: RequestHandle[] = [];
    const last = new Float64Array(STREAMS);
    let streaming = 0;
    let ignored = 0;
    let sentAt = 0;
    let ended = false;
    const onFinish = (): void => {};
    const onError = (error: Error): void => void (ended || reject(error));
    const onFirst = (): "stop" => {
      firstTokens.push(performance.now() - sentAt);
      if (firstTokens.length < prompts) return "stop";
      ended = true;
      for (const handle of handles) handle.cancel("cancelled");
      const fed = runs
        .map((run, index) => ({ ...run, gap: run.at - (runs[index - 1]?.at ?? 0) }))
        .filter(({ at, gap }) => at - gap > sentAt);
      const stretch = quantile(
        fed.map(({ gap, milliseconds }) => gap / milliseconds),
        0.99,
      );
      resolve({
        p50Before: quantile(before!, 0.5),
        p99Before: quantile(before!, 0.99),
        p50: quantile(during!, 0.5),
        p99: quantile(during!, 0.99),
        stretch,
        firstTokens,
      });
      return "stop";
    };
    const sendLong = (): void => {
      sentAt = performance.now();
      for (let prompt = 0; prompt < prompts; prompt++) {
        handles.push(
          engine.submit(benchRequest({ promptIds: promptIds(LONG, 99 + prompt), maxNewTokens: 2 }), {
            onToken: onFirst,
            onFinish,
            onError,
          }),
        );
      }
    };
    const quiet = (gap: number): void => {
      if (ignored < STEPS_IGNORED * STREAMS) ignored++;
      else if (before!.push(gap) === STEPS_BEFORE * STREAMS) sendLong();
    };
    for (let stream = 0; stream < STREAMS; stream++) {
      const onToken = (): "continue" => {
        const now = performance.now();
        if (last[stream] === 0) streaming++;
        else if (sentAt > 0) during!.push(now - last[stream]!);
        else if (streaming === STREAMS) quiet(now - last[stream]!);
        last[stream] = now;
        return "continue";
      };
      handles.push(
        engine.submit(benchRequest({ promptIds: promptIds(SHORT, stream), prefix, maxNewTokens: ENDLESS }), {
          onToken,
          onFinish,
          onError,
        }),
      );
    }
  });
}
