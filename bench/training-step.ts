/**
 * How long does one training step take, and how much memory, beside torch with PEFT? Both begin with the same prefix of 10 virtual tokens and
 * get the same batches, in turn; a step is forward, backward, clipping and AdamW.
 *
 *     PEFT_PYTHON=python [SIZE=demo|gpt2|...] [ROUNDS=15] [THREADS=2] npm run bench -- training-step
 *
 * Memory is each process's most resident memory (VmHWM) since its start, modules, model and all; each shape has processes of its own.
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { seededRandom } from "../src/load/random.ts";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import type { TrainSequence } from "../src/model/train-batch.ts";
import { peftFiles } from "../src/prefixes/peft-files.ts";
import { DEMO, sizedCheckpoint } from "./support/gpt2.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { TrainerProcess, type TrainerUpdate } from "./support/trainer-process.ts";

const SIZE = process.env["SIZE"] ?? "gpt2";
const ROUNDS = Number(process.env["ROUNDS"] ?? 15);
const THREADS = Number(process.env["THREADS"] ?? 2);
const WARM_UP = 2;
const VIRTUAL_TOKENS = 10;
/** Rows, tokens of a row, and the share of them that is learned. */
const SHAPES = [
  { rows: 4, tokens: 128, share: 0.25 },
  { rows: 4, tokens: 128, share: 1 },
];

const python = process.env["PEFT_PYTHON"];
if (python === undefined) {
  console.log("training-step: skipped, PEFT_PYTHON is not set");
  process.exit(0);
}
const base = SIZE === "demo" ? DEMO : await sizedCheckpoint(SIZE);
const checkpoint = await openCheckpoint(base);
const { shape, fingerprint } = checkpoint;
await checkpoint.close();
const random = seededRandom(1);
const adapter = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
process.once("exit", () => rmSync(adapter, { recursive: true }));
writeAdapter(adapter);

const lines: string[][] = [];
for (const wanted of SHAPES) {
  const parts = { base, adapter, threads: THREADS };
  using own = TrainerProcess.own(parts, false);
  using packed = TrainerProcess.own(parts, true);
  using peft = TrainerProcess.peft(python, parts);
  const ways = [
    { name: "", trainer: own, updates: [] as TrainerUpdate[] },
    { name: ", `--pack-weights`", trainer: packed, updates: [] as TrainerUpdate[] },
  ];
  const others: TrainerUpdate[] = [];
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    const batch = batchOf(wanted);
    const other = await peft.update(batch, 1e-3, 1);
    if (round >= WARM_UP) others.push(other);
    for (const { trainer, updates } of ways) {
      const update = await trainer.update(batch, 1e-3, 1);
      if (Math.abs(update.loss - other.loss) > 1e-3 * other.loss)
        throw new Error(`the losses differ: ${update.loss}, PEFT's ${other.loss}`);
      if (round >= WARM_UP) updates.push(update);
    }
  }
  const ms = (updates: readonly TrainerUpdate[]): string => median(updates.map((update) => update.ms)).toFixed(0);
  const mib = (updates: readonly TrainerUpdate[]): number => updates.at(-1)!.peak_bytes / 2 ** 20;
  for (const { name, updates } of ways) {
    lines.push([
      `${100 * wanted.share} %${name}`,
      ms(updates),
      ms(others),
      median(updates.map((update, i) => update.ms / others[i]!.ms)).toFixed(2),
      mib(updates).toFixed(0),
      mib(others).toFixed(0),
      (mib(updates) / mib(others)).toFixed(2),
    ]);
    console.log(lines.at(-1)!.join(" | "));
  }
}
writeSection("training-step", [
  `${SIZE === "demo" ? "Demo model" : `The shape of ${SIZE}, random weights`}, fp32, ${THREADS} ${THREADS === 1 ? "thread" : "threads"}, ${SHAPES[0]!.rows} rows of ${SHAPES[0]!.tokens} tokens; medians of ${ROUNDS} interleaved rounds, ratios of the two in one round. ${machine()}.`,
  "",
  ...table(
    ["learned", "prefixd, ms", "torch + PEFT, ms", "ratio", "prefixd, MiB", "torch + PEFT, MiB", "ratio"],
    lines,
  ),
]);

/** Random tokens; the first is never learned. */
function batchOf({ rows, tokens, share }: (typeof SHAPES)[number]): TrainSequence[] {
  return Array.from({ length: rows }, () => ({
    ids: Int32Array.from({ length: tokens }, () => Math.floor(random() * shape.vocabSize)),
    firstTarget: tokens - Math.min(tokens - 1, Math.round(tokens * share)),
    endTarget: tokens,
  }));
}

/** A prefix of random values. */
function writeAdapter(dir: string): void {
  const values = Float32Array.from({ length: shape.layers * 2 * shape.width * VIRTUAL_TOKENS }, () => random() - 0.5);
  const files = peftFiles({
    ...{ kind: "prefix", hidden: null, virtualTokens: VIRTUAL_TOKENS, baseName: null },
    ...{ values, shape, fingerprint },
  });
  mkdirSync(dir, { recursive: true });
  for (const [name, bytes] of files) writeFileSync(join(dir, name), bytes);
}
