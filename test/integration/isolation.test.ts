/**
 * A request's tokens and logprobs are bit-equal (`===`) whether it runs alone or in a batch of 32 requests with other
 * prefixes, while rows join, leave, move and are cancelled.
 */
import t from "tap";
import { SIMULATED } from "../support/devices.ts";
import { effort } from "../support/effort.ts";
import { checkMixes, isolationSuite, randomPrefixes } from "../support/isolation.ts";
import { goldenDir, openTestModel } from "../support/model.ts";

isolationSuite("fp32");

const mixes = effort({ short: 3, long: 15 });
t.test(`tiny model, the CPU's kernels on memory treated as a device's, ${mixes} mixes`, async (t) => {
  const model = await openTestModel(goldenDir("gelu-new-f32"), { prefillChunk: 8, device: SIMULATED.handles });
  t.teardown(() => model.close());
  await checkMixes(t, model, {
    mixes,
    prefixes: randomPrefixes(model.runner.shape, 40, 24),
    maxPrompt: 30,
    maxNew: 20,
  });
});
