import t from "tap";
import type { TrainedKind } from "../../src/model/train-graph.ts";
import { PrefixNetwork } from "../../src/model/prefix-network.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { SIMULATED, webgpuSkip } from "../support/devices.ts";
import { effort } from "../support/effort.ts";
import { goldenModels, seededRandom } from "../support/model.ts";
import { goldenTraining, mean, relativeError, sequenceOf, withStep, type GoldenRow } from "../support/training.ts";

interface Gradients {
  readonly virtual_tokens: number;
  readonly hidden: number;
  readonly cases: readonly { name: string; model: string; kind: TrainedKind; rows: GoldenRow[]; loss: number }[];
}

const { document, tensor } = goldenTraining<Gradients>("gradients");
const virtualTokens = document.virtual_tokens;
// Before the first session: the driver keeps the setting.
const noWebgpu = webgpuSkip();
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

/** Float64's gradient, layer by layer: keys and values of a prefix, or all of a prompt. */
const WORST = 1e-5;

function worstLayer(gradient: Float32Array, expected: Float32Array, parts: number): number {
  const size = expected.length / parts;
  const errors = Array.from({ length: parts }, (_, i) =>
    relativeError(gradient.subarray(i * size, (i + 1) * size), expected.subarray(i * size, (i + 1) * size)),
  );
  return Math.max(...errors);
}

t.test("losses and gradients are torch's in float64: every activation, scale and dtype", async (t) => {
  t.same(new Set(document.cases.map(({ model }) => model)), new Set(goldenModels()));
  for (const { name, model, kind, rows, loss } of document.cases) {
    await withStep(runtime, model, { kind, virtualTokens }, async (step, { layers }) => {
      step.values.set(tensor(`${name}/values`));
      const { nll, margin } = await step.run([rows.map(sequenceOf)]);
      t.ok(Math.abs(mean(nll) / loss - 1) < 1e-6, `${name}: loss ${mean(nll)}, torch's ${loss}`);
      t.ok(margin.every((value) => value >= 0));
      const error = worstLayer(step.gradient, tensor(`${name}/gradient`), kind === "prefix" ? 2 * layers : 1);
      t.ok(error < WORST, `${name}: worst layer ${error}`);
    });
  }
});

t.test("with packed weights too", async (t) => {
  for (const { name, model, kind, rows } of document.cases.slice(0, 2)) {
    await withStep(runtime, model, { kind, virtualTokens, packWeights: true }, async (step, { layers }) => {
      step.values.set(tensor(`${name}/values`));
      await step.run([rows.map(sequenceOf)]);
      const error = worstLayer(step.gradient, tensor(`${name}/gradient`), kind === "prefix" ? 2 * layers : 1);
      t.ok(error < WORST, `${name}: worst layer ${error}`);
    });
  }
});

t.test("finite differences agree, in a random direction", async (t) => {
  for (const { name, model, kind, rows } of document.cases) {
    await withStep(runtime, model, { kind, virtualTokens }, async (step) => {
      const values = tensor(`${name}/values`);
      const random = seededRandom(3);
      const direction = values.map(() => random() - 0.5);
      const lossAt = async (distance: number): Promise<number> => {
        step.values.set(values.map((value, i) => value + distance * direction[i]!));
        return mean((await step.evaluate([rows.map(sequenceOf)])).nll);
      };
      await lossAt(0);
      await step.run([rows.map(sequenceOf)]);
      const slope = step.gradient.reduce((sum, value, i) => sum + value * direction[i]!, 0);
      // Short, because relu has kinks.
      const h = 1e-3;
      const measured = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
      t.ok(Math.abs(measured - slope) < 0.01 * Math.abs(slope) + 2e-3, `${name}: ${measured} and ${slope}`);
    });
  }
});

t.test("parts of a batch, split sequences among them, add up to the same gradient", async (t) => {
  const { name, model, kind, rows } = document.cases[0]!;
  await withStep(runtime, model, { kind, virtualTokens }, async (step) => {
    step.values.set(tensor(`${name}/values`));
    const [first, ...others] = rows.map(sequenceOf);
    const middle = first!.firstTarget + 2;
    const { nll } = await step.run([[first!], others]);
    const gradient = step.gradient.slice();
    const split = await step.run([
      [{ ...first!, endTarget: middle }, others[0]!],
      [{ ...first!, firstTarget: middle }],
      others.slice(1),
    ]);
    t.equal(split.nll.length, nll.length);
    const error = relativeError(step.gradient, gradient);
    t.ok(error < 1e-6, `${error}`);
    await step.run([[first!], others]);
    t.same(step.gradient, gradient, "to the bit, whatever ran before");
  });
});

t.test("a token's margin is 0 where it is the likeliest", async (t) => {
  await withStep(runtime, "gelu-new-f32", { kind: "prefix", virtualTokens }, async (step) => {
    step.values.set(tensor("gelu-new-f32/prefix/values"));
    const ids = [5, 6, 7];
    const every = Array.from({ length: 257 }, (_, next) => ({
      ids: Int32Array.from([...ids, next]),
      firstTarget: 3,
      endTarget: 4,
    }));
    const { nll, margin } = await step.evaluate([every]);
    t.equal(margin.filter((value) => value === 0).length, 1);
    t.equal(margin.indexOf(0), nll.indexOf(Math.min(...nll)));
    t.ok(Math.abs(nll.reduce((sum, value) => sum + Math.exp(-value), 0) - 1) < 1e-5, "probabilities");
  });
});

t.test("the network behind a prefix has torch's values and gradients", async (t) => {
  await withStep(runtime, "gelu-new-f32", { kind: "prefix", virtualTokens }, async (step, config) => {
    const options = { config, virtualTokens, hidden: document.hidden, threads: 1 };
    using network = new PrefixNetwork(runtime, options, step.values, step.gradient);
    for (const [name, { values }] of network.tensors) values.set(tensor(`network/${name}`));
    network.forward();
    t.ok(relativeError(step.values, tensor("network/prefix")) < 1e-6);
    step.gradient.set(tensor("network/prefix.gradient"));
    network.backward();
    for (const [name, { gradient }] of network.tensors) {
      const error = relativeError(gradient, tensor(`network/${name}.gradient`));
      t.ok(error < 1e-6, `${name}: ${error}`);
    }
  });
});

t.test("on a device the numbers are close", async (t) => {
  const { name, model, kind, rows } = document.cases[0]!;
  const gradientOn = (device: Device): Promise<Float32Array> =>
    withStep(runtime, model, { kind, virtualTokens, device }, async (step) => {
      step.values.set(tensor(`${name}/values`));
      await step.run([rows.map(sequenceOf)]);
      return step.gradient;
    });
  t.ok(relativeError(await gradientOn(SIMULATED.handles), tensor(`${name}/gradient`)) < WORST);
  // SwiftShader takes 15 s to compile the shaders.
  if (effort({ short: true, long: false })) return;
  t.test("webgpu", { skip: noWebgpu }, async (t) => {
    const error = relativeError(await gradientOn(DEVICES.webgpu), tensor(`${name}/gradient`));
    t.ok(error < 1e-4, `${error}`);
  });
});
