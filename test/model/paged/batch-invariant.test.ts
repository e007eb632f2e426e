/** `--batch-invariant on` over pages: every run has the size that it would have alone. On a double that rounds by size. */
import t from "tap";
import type { Runtime } from "../../../src/runtime/session.ts";
import type { FixedTensor, StreamedDevice, StreamModel } from "../../../src/runtime/stream-device.ts";
import { SIMULATED } from "../../support/devices.ts";
import { EmulatedDevice } from "../../support/emulated-device.ts";
import { checkMixes, compareMixes, randomPrefixes } from "../../support/isolation.ts";
import { goldenDir, openTestModel, type TestModel } from "../../support/model.ts";

/** Like cuBLAS, whose kernels depend on the number of rows. */
class RoundingDevice extends EmulatedDevice {
  override load(runtime: Runtime, path: string | Uint8Array): StreamModel {
    const model = super.load(runtime, path);
    const prepare = model.prepare.bind(model);
    model.prepare = (inputs, outputs) => {
      const run = prepare(inputs, outputs);
      const logits = outputs["top_logits"];
      if (logits === undefined) return run;
      const tokens = (inputs["input_ids"] as FixedTensor).shape[0]!;
      const rounded = (how: () => void): void => {
        how();
        this.queue("round", () => this.#round(logits, 1 + tokens * 2 ** -16));
      };
      return {
        ...run,
        run: () => rounded(() => run.run()),
        capture: () => run.capture(),
        replay: () => rounded(() => run.replay()),
      };
    };
    return model;
  }

  #round({ address, shape }: FixedTensor, factor: number): void {
    const bytes = this.at(address, 4 * shape[0]! * shape[1]!);
    const logits = new Float32Array(bytes.slice().buffer).map((value) => value * factor);
    bytes.set(new Uint8Array(logits.buffer));
  }
}

async function open(batchInvariant: boolean): Promise<TestModel> {
  const device: StreamedDevice = { ...SIMULATED.stream, open: () => new RoundingDevice() };
  return openTestModel(goldenDir("gelu-new-f32"), { prefillChunk: 8, slots: 6, device, batchInvariant });
}

const mixes = ({ runner }: TestModel) =>
  ({ mixes: 1, pool: 16, prefixes: randomPrefixes(runner.shape, 8, 24), maxPrompt: 20, maxNew: 8 }) as const;

t.test("on: the same bits alone and in mixes, and no run has several prompts", async (t) => {
  const model = await open(true);
  t.teardown(() => model.close());
  t.equal(model.runner.rowsChangeBits, false);
  t.equal(model.runner.promptsAtOnce, 1);
  t.same(model.runner.graphStats()?.eager, []);
  await checkMixes(t, model, mixes(model));
});

t.test("off: they depend on the load", async (t) => {
  const model = await open(false);
  t.teardown(() => model.close());
  t.equal(model.runner.rowsChangeBits, null, "not known");
  t.ok(model.runner.promptsAtOnce > 1);
  const { compared, unequal } = await compareMixes(model, mixes(model));
  t.ok(compared > 0 && unequal > 0, `${unequal} choices differ`);
});
