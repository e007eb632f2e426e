/** int8 is close to fp32 and does not turn an overflow into numbers. */
import t from "tap";
import { kvElements } from "../../src/kv.ts";
import { goldenCases, goldenDir, goldenModels } from "../support/model.ts";
import { openFixture, rowOf } from "./runner-fixture.ts";

/** Natural log units. The golden models are narrow, with random weights and logits that reach 12: the demo model loses far less. */
const MEAN_ERROR = 0.08;
const LARGEST_ERROR = 0.3;

for (const model of goldenModels()) {
  t.test(`${model}: log-probabilities of what transformers generated`, async (t) => {
    const fixture = await openFixture(goldenDir(model), 1, { precision: "int8" });
    t.teardown(() => fixture.close());
    const { runner } = fixture;
    const errors: number[] = [];
    for (const { adapter, hard_prompt_ids, prompt_ids, token_ids, token_logprobs } of goldenCases(model).cases) {
      if (adapter !== null || hard_prompt_ids !== undefined) continue;
      for (const [step, id] of token_ids.entries()) {
        const output =
          step === 0
            ? await runner.prefill(0, 0, Int32Array.from(prompt_ids), "last")
            : await runner.decode(Int32Array.of(token_ids[step - 1]!), Int32Array.of(prompt_ids.length + step - 1));
        errors.push(Math.abs(output.logits(0)[id]! - output.logSumExp[0]! - token_logprobs[step]!));
      }
    }
    const mean = errors.reduce((sum, error) => sum + error, 0) / errors.length;
    t.ok(errors.length >= 20, `${errors.length} tokens`);
    t.ok(mean < MEAN_ERROR, `mean ${mean}`);
    t.ok(mean > 0, "this is not fp32");
    t.ok(Math.max(...errors) < LARGEST_ERROR, `largest ${Math.max(...errors)}`);
  });
}

t.test("one head that is NaN makes the whole row NaN, and no other row", async (t) => {
  const fixture = await openFixture(goldenDir("gelu-new-f32"), 2, { precision: "int8" });
  t.teardown(() => fixture.close());
  const { runner, ids } = fixture;
  const { shape } = runner;
  const prompt = ids(3, 1);
  for (let head = 0; head < shape.heads; head++) {
    const data = new Float32Array(kvElements(shape, 1));
    // The last layer's keys of one head, as if its scores had overflowed.
    const keys = ((shape.layers - 1) * 2 * shape.heads + head) * shape.headDim;
    data.fill(NaN, keys, keys + shape.headDim);
    runner.loadPrefix(0, { length: 1, data });
    const output = rowOf(await runner.prefill(0, 1, prompt, "last"));
    t.ok(Number.isNaN(output.logSumExp), `head ${head}: ${output.logSumExp}`);
    await runner.prefill(1, 0, prompt, "last");
    const both = await runner.decode(Int32Array.of(1, 1), Int32Array.of(4, 3));
    t.ok(Number.isNaN(rowOf(both, 0).logSumExp));
    t.ok(Number.isFinite(rowOf(both, 1).logSumExp));
  }
});
