/** The graph over pages on WebGPU's PagedAttention, in half precision: PEFT's tokens, and the same bits whatever shares a run. */
import { createHash } from "node:crypto";
import t from "tap";
import type { PromptChunk, StepOutput } from "../../../src/engine/runner.ts";
import { webgpuSkip } from "../../support/devices.ts";
import { randomPrefixes } from "../../support/isolation.ts";
import { goldenDir, openTestModel, seededRandom } from "../../support/model.ts";
import { checkParityOf } from "../../support/parity.ts";
import { skipFileWithout } from "../../support/requirements.ts";
import { WEBGPU_STREAM } from "../../support/webgpu-stream.ts";

skipFileWithout(t, "lavapipe");
webgpuSkip("lavapipe");
const NAME = "gelu-new-f32";
/** Of log probabilities, as doctor/compare.ts allows. */
const WITHIN = 0.03;
const SLOTS = 6;
const model = await openTestModel(goldenDir(NAME), {
  slots: SLOTS,
  prefillChunk: 8,
  device: WEBGPU_STREAM,
  precision: "fp16",
});
t.teardown(() => model.close());
const { runner } = model;
const { vocabSize, positions } = runner.shape;
const prefixes = randomPrefixes(runner.shape, SLOTS, 20);

const idsOf = (length: number, seed: number): Int32Array => {
  const random = seededRandom(seed);
  return Int32Array.from({ length }, () => Math.floor(random() * vocabSize));
};

/**
 * A digest of what a row answers and then holds: `row` of the cache, `at` of the output. Without the sum over the logits:
 * WebGPU's Softmax adds up one row in another order than several.
 */
async function bitsOf(output: StepOutput, row: number, at = row): Promise<string> {
  const digest = createHash("sha256").update(output.logits(at));
  return digest.update((await runner.read(row, positions)).data).digest("hex");
}

async function fresh(): Promise<void> {
  for (let row = 0; row <= SLOTS; row++) runner.wipe(row, 0, positions);
  runner.wipeBuffers();
  for (const [row, prefix] of prefixes.entries()) runner.loadPrefix(row, prefix);
}

t.test("parity with PEFT's fp32", (t) => checkParityOf(t, model, NAME, { times: 1, every: 2, within: WITHIN }));

t.test("a decode step: the same bits beside any number of rows, and no other row changes", async (t) => {
  const pasts = Int32Array.from(prefixes, ({ length }) => length);
  const ids = idsOf(SLOTS, 1);
  await fresh();
  const all = await runner.decode(ids, pasts);
  const expected: string[] = [];
  for (let row = 0; row < SLOTS; row++) expected.push(await bitsOf(all, row));
  await fresh();
  const before = (await runner.read(SLOTS - 1, positions)).data;
  t.ok(before.some((value) => value !== 0));
  for (let rows = 1; rows < SLOTS; rows++) {
    await fresh();
    const output = await runner.decode(ids.subarray(0, rows), pasts.subarray(0, rows));
    for (let row = 0; row < rows; row++) t.equal(await bitsOf(output, row), expected[row], `row ${row} of ${rows}`);
    t.same((await runner.read(SLOTS - 1, positions)).data, before, "a row that is not fed");
  }
});

t.test("prompts: the same bits alone and together, in any row", async (t) => {
  const lengths = [3, 1, 17, 9, 20, 12];
  const chunk = (row: number, prompt: number): PromptChunk => ({
    row,
    start: prefixes[row]!.length,
    ids: idsOf(lengths[prompt]!, prompt),
  });
  const alone = new Map<string, string>();
  for (const [row] of prefixes.entries())
    for (const prompt of [row, (row + 1) % SLOTS]) {
      await fresh();
      const { start, ids } = chunk(row, prompt);
      alone.set(`${row} ${prompt}`, await bitsOf(await runner.prefill(row, start, ids, "last"), row, 0));
    }
  for (const rows of [[0, 1, 2], [3, 4], [0, 1, 2, 3, 4, 5], [5]])
    for (const shift of [0, 1]) {
      await fresh();
      const output = await runner.prefillAll(rows.map((row) => chunk(row, (row + shift) % SLOTS)));
      for (const [at, row] of rows.entries())
        t.equal(
          await bitsOf(output, row, at),
          alone.get(`${row} ${(row + shift) % SLOTS}`),
          `row ${row} in ${rows.join(" ")}`,
        );
    }
});
