/**
 * How much does a stream lose beside users who register prompts all the time? Each soft or hard prompt is run through
 * the model once.
 *
 *     [DEVICE=cpu|webgpu|cuda] [SIZE=gpt2|demo|...] npm run bench -- folds
 *
 * One stream decodes while others register hard prompts one after the other, without HTTP. `--prefill-share` limits
 * their total share, so the stream should keep its own whatever their number.
 */
import {
  benchRequest,
  DEMO,
  newEngine,
  openFolder,
  prefillChunkOf,
  promptIds,
  sizedCheckpoint,
} from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import type { Engine } from "../src/engine/engine.ts";
import { PrefixdError } from "../src/errors.ts";
import { DEVICES } from "../src/runtime/devices.ts";

const KIND = (process.env["DEVICE"] ?? "cpu") as keyof typeof DEVICES;
const SIZE = process.env["SIZE"] ?? "gpt2";
const ROUNDS = Number(process.env["ROUNDS"] ?? 5);
const [SHARE, LENGTH, TOKENS] = [0.35, 500, Number(process.env["TOKENS"] ?? 100)];
const FOLDERS = [0, 1, 8, 32];

const precision = KIND === "cuda" ? "fp16" : "fp32";
await using model = await openFolder(
  SIZE === "demo" ? DEMO : await sizedCheckpoint(SIZE),
  8,
  precision,
  2,
  DEVICES[KIND],
);
const { runner, shape } = model;
const length = Math.min(LENGTH, shape.positions - 1);
const rates = new Map<number, number[]>();
const times: number[] = [];
for (let round = -1; round < ROUNDS; round++) {
  for (const folders of FOLDERS) {
    const { tokensPerSecond, folds } = await beside(folders);
    process.stderr.write(`${folders} beside: ${tokensPerSecond.toFixed(1)} tokens/s\n`);
    // The first round compiles and calibrates.
    if (round < 0) continue;
    rates.set(folders, [...(rates.get(folders) ?? []), tokensPerSecond]);
    if (folders === 1) times.push(...folds);
  }
}
const alone = rates.get(0)!;
const rows = FOLDERS.map((folders) => [
  `${folders}`,
  median(rates.get(folders)!).toFixed(1),
  median(rates.get(folders)!.map((rate, round) => rate / alone[round]!)).toFixed(2),
]);
const text = table(["users who register", "the stream's tokens/s", "of what it has alone"], rows);
console.log(text.join("\n"), `\na prompt of ${length} beside the stream: ${median(times).toFixed(0)} ms`);
if (KIND === "cpu" && SIZE === "gpt2") {
  writeSection("folds", [
    `GPT-2 small with random weights, fp32, 2 threads, ${TOKENS} tokens of a stream beside hard prompts of ${length} tokens, \`--prefill-share\` ${SHARE}; medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
    "",
    ...text,
    "",
    `With one such user a prompt takes ${(median(times) / 1000).toFixed(1)} s from its upload on.`,
  ]);
}
process.exit(0);

async function beside(folders: number): Promise<{ tokensPerSecond: number; folds: number[] }> {
  const engine = newEngine(runner, { prefillChunk: prefillChunkOf(runner), prefillShare: SHARE });
  let over = false;
  const folds: number[] = [];
  const flood = Array.from({ length: folders }, async (_, user) => {
    for (let turn = 0; !over; turn++) {
      const started = performance.now();
      await engine
        .fold(
          { kind: "tokens", ids: promptIds(length, user * 100 + turn, shape.vocabSize) },
          { tenant: `user-${user}` },
        )
        .catch((error: unknown) => {
          if (!over) throw error;
        });
      folds.push(performance.now() - started);
    }
  });
  const tokensPerSecond = await stream(engine);
  over = true;
  engine.endFolds(new PrefixdError("draining", "The benchmark is over."));
  await Promise.all(flood);
  await engine.drain(0);
  return { tokensPerSecond, folds };
}

/** Tokens per second from the first token to the last. */
function stream(engine: Engine): Promise<number> {
  return new Promise((resolve, reject) => {
    let first = 0;
    let tokens = 0;
    engine.submit(
      benchRequest({ tenant: "stream", promptIds: promptIds(16, 1, shape.vocabSize), maxNewTokens: TOKENS }),
      {
        onToken: () => {
          if (tokens++ === 0) first = performance.now();
          return "continue";
        },
        onFinish: () => resolve(((tokens - 1) * 1000) / (performance.now() - first)),
        onError: reject,
      },
    );
  });
}
