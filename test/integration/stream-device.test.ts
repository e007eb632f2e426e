/** The engine on a streamed device (CUDA's test double): parity with PEFT, bit-exact isolation, doctor's self-test. */
import { join } from "node:path";
import t from "tap";
import { effort } from "../support/effort.ts";
import { SIMULATED } from "../support/devices.ts";
import { checkMixes, randomPrefixes } from "../support/isolation.ts";
import { goldenDir, goldenModels, openTestModel } from "../support/model.ts";
import { checkParity } from "../support/parity.ts";

const device = SIMULATED.stream;

t.test("parity", async (t) => {
  for (const name of effort({ short: ["gelu-new-f32"], long: goldenModels() }))
    await t.test(name, (t) => checkParity(t, name, { device, slots: 6, times: 1 }));
});

t.test("isolation: the same bits alone and in mixes of 32", async (t) => {
  const dir = goldenDir("gelu-new-f32");
  const model = await openTestModel(dir, { prefillChunk: 8, slots: 8, device });
  t.teardown(() => model.close());
  const real = await Promise.all(
    ["prefix-p1", "cartridge-p12", "prompt-p5"].map((name) => model.adapter(join(dir, "adapters", name))),
  );
  await checkMixes(t, model, {
    mixes: effort({ short: 1, long: 5 }),
    prefixes: [...real, ...randomPrefixes(model.runner.shape, 8, 24)],
    maxPrompt: 20,
    maxNew: 10,
  });
});
