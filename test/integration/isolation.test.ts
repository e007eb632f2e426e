/**
 * Neighbours change nothing: tokens and logprobs of a request are bit-equal (`===`) alone and in mixes of 32 requests with other
 * prefixes, while rows join, leave, move and are cancelled.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import { randomCheckpoint } from "../../bench/support/random-checkpoint.ts";
import { kvElements, type KvTensor } from "../../src/kv.ts";
import { SIMULATED } from "../support/devices.ts";
import { checkMixes, PER_MIX, randomPrefixes } from "../support/isolation.ts";
import { engineRequest, goldenDir, openTestModel, submit } from "../support/model.ts";

t.test("tiny model, all kinds of prefixes, 200 mixes", async (t) => {
  const dir = goldenDir("gelu-new-f32");
  const model = await openTestModel(dir, { prefillChunk: 8 });
  t.teardown(() => model.close());
  const adapters = ["prefix-p1", "prefix-p40-f16", "prefix-mlp-p7", "cartridge-p12", "prompt-p5", "cpt-p6", "ptuning-lstm-p3"];
  const real = await Promise.all(adapters.map((name) => model.adapter(join(dir, "adapters", name))));
  await checkMixes(t, model, { mixes: 200, prefixes: [...real, ...randomPrefixes(model.runner.shape, 20, 24)], maxPrompt: 30, maxNew: 20 });
});

for (const [kind, device] of Object.entries(SIMULATED)) {
  t.test(`tiny model, ${kind}, 40 mixes`, async (t) => {
    const dir = goldenDir("gelu-new-f32");
    const model = await openTestModel(dir, { prefillChunk: 8, device });
    t.teardown(() => model.close());
    await checkMixes(t, model, { mixes: 40, prefixes: randomPrefixes(model.runner.shape, 40, 24), maxPrompt: 30, maxNew: 20 });
  });
}

t.test("demo model with its prefixes, 20 mixes", async (t) => {
  const model = await openTestModel("models/demo");
  t.teardown(() => model.close());
  const prefixes = await Promise.all(["datenorm", "datelong", "intent", "truecase", "e2e"].map((name) => model.adapter(join("prefixes", name))));
  await checkMixes(t, model, { mixes: 20, prefixes, maxPrompt: 120, maxNew: 24 });
});

t.test("matrices of GPT-2 small's width and vocabulary, 8 mixes", async (t) => {
  const dir = await mkdtemp(join(tmpdir(), "prefixd-wide-"));
  await randomCheckpoint(dir, { model_type: "gpt2", vocab_size: 50257, n_positions: 256, n_layer: 1, n_head: 12, n_embd: 768, bos_token_id: 50256, eos_token_id: 50256 });
  const model = await openTestModel(dir);
  t.teardown(async () => {
    await model.close();
    await rm(dir, { recursive: true });
  });
  await checkMixes(t, model, { mixes: 8, prefixes: randomPrefixes(model.runner.shape, 12, 40), maxPrompt: 90, maxNew: 12 });
});

t.test("a poisoned prefix (values that overflow) ends its own request and no other", async (t) => {
  const model = await openTestModel(goldenDir("gelu-new-f32"));
  t.teardown(() => model.close());
  const { shape } = model.runner;
  const poison: KvTensor = { length: 4, data: new Float32Array(kvElements(shape, 4)).fill(3e38) };
  const request = engineRequest({ promptIds: Int32Array.of(5, 9, 12), maxNewTokens: 20 });
  const [alone] = await submit(model.engine, request).done;
  const beside = submit(model.engine, request).done;
  const poisoned = Array.from({ length: 20 }, () => submit(model.engine, engineRequest({ promptIds: Int32Array.of(1, 2), prefix: poison })).done);
  const outcomes = await Promise.allSettled(poisoned);
  for (const outcome of outcomes) {
    t.equal(outcome.status, "rejected");
    if (outcome.status === "rejected") t.match(outcome.reason, { code: "model_failed" });
  }
  t.same((await beside)[0], alone);
  // The rows that held NaN are used again.
  const after = await Promise.all(Array.from({ length: PER_MIX }, () => submit(model.engine, request).done));
  for (const [choice] of after) t.same(choice, alone);
});
