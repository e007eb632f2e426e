import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t from "tap";
import type { TrainedKind } from "../../src/model/train-graph.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { Job } from "../../src/training/job.ts";
import { defaultSteps } from "../../src/training/defaults.ts";
import { linearSchedule } from "../../src/training/optimizer.ts";
import { runTraining } from "../../src/training/run.ts";
import { restoreState, saveState } from "../../src/training/state.ts";
import { decodeFloats, parseSafetensorsHeader } from "../../src/formats/safetensors.ts";
import { trainRequests, type RequestChange } from "../support/train-request.ts";

const dir = mkdtempSync(join(tmpdir(), "prefixd-training-"));
t.teardown(() => rmSync(dir, { recursive: true }));
const data = join(dir, "data.jsonl");
const WORDS = ["red", "blue", "green", "white", "black", "small", "large", "old"];
writeFileSync(
  data,
  Array.from({ length: 80 }, (_, i) => WORDS[i % 8]! + " " + WORDS[(i * 3 + (i >> 3)) % 8]!)
    .map((text) => JSON.stringify({ prompt: `${text}\n=>`, completion: ` ${text.split(" ").reverse().join(" ")}` }))
    .join("\n"),
);
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());
/** To the bit; tap would describe thousands of differences. */
const areEqual = (a: Float32Array, b: Float32Array): boolean =>
  a.length === b.length && a.every((value, i) => Object.is(value, b[i]));
const never = new AbortController().signal;
const noSave = async (): Promise<void> => {};

const request = trainRequests(
  { dir, data },
  {
    kind: "prefix",
    virtualTokens: 4,
    steps: 12,
    warmup: 2,
    evaluateEvery: 4,
  },
);

async function finished(change: RequestChange = {}): Promise<{ result: Float32Array; losses: number[] }> {
  await using job = await Job.open(runtime, request(change), true);
  t.equal(await runTraining(job.training, { signal: never, save: noSave }), "done");
  return { result: job.training.result().slice(), losses: job.training.progress.evaluations.map(({ loss }) => loss) };
}

t.test("it learns, and the best values are kept", async (t) => {
  await using job = await Job.open(runtime, request({ options: { steps: 40, evaluateEvery: 5 } }), true);
  const losses: number[] = [];
  const kept = new Map<number, Float32Array>();
  const { training } = job;
  await runTraining(training, {
    signal: never,
    save: async () => void kept.set(training.progress.step, job.training.result().slice()),
    onEvaluation: ({ loss }) => losses.push(loss),
  });
  t.equal(losses.length, 8);
  t.ok(Math.min(...losses) < losses[0]! / 2, losses.join(" "));
  const best = 5 * (losses.indexOf(Math.min(...losses)) + 1);
  t.ok(areEqual(training.result(), kept.get(best)!), `of step ${best}`);
});

for (const [name, change] of [
  ["values, with dropout", { options: { dropout: 0.1 } }],
  ["a network", { options: { hidden: 16, weightDecay: 0.01 } }],
  ["a prompt", { options: { kind: "prompt" as TrainedKind } }],
] as const) {
  t.test(`${name}: interrupted twice and resumed, it has the same bits`, async (t) => {
    const { result, losses } = await finished(change);
    const state = join(dir, "state");
    for (const [from, until] of [
      [0, 3],
      [3, 7],
      [7, 99],
    ] as const) {
      await using job = await Job.open(runtime, request(change), from === 0);
      const { training, origin } = job;
      if (from > 0) await restoreState(state, training, origin);
      t.equal(training.progress.step, from);
      const stop = new AbortController();
      const outcome = await runTraining(training, {
        signal: stop.signal,
        save: () => saveState(state, training, origin),
        onUpdate: ({ step }) => step >= until && stop.abort(),
      });
      if (until < 99) t.equal(outcome, "interrupted");
      else {
        t.ok(areEqual(training.result(), result), "the result");
        t.same(
          training.progress.evaluations.map(({ loss }) => loss),
          losses,
        );
      }
    }
    if (name !== "a network") return;
    await using other = await Job.open(runtime, request({ ...change, options: { ...change.options, seed: 2 } }), false);
    await t.rejects(restoreState(state, other.training, other.origin), { message: /another seed/ });
    await using longer = await Job.open(
      runtime,
      request({ ...change, options: { ...change.options, steps: 13 } }),
      false,
    );
    await t.rejects(restoreState(state, longer.training, longer.origin), { message: /another steps/ });
    await using apart = await Job.open(runtime, request({ ...change, holdOut: 0.3 }), false);
    await t.rejects(restoreState(state, apart.training, apart.origin), { message: /other training data/ });
    const bytes = readFileSync(state);
    for (const [text, damaged] of [
      ["cut short", bytes.subarray(0, 1000)],
      ["of another kind", Buffer.from("{}")],
    ] as const) {
      writeFileSync(state, damaged);
      await t.rejects(restoreState(state, longer.training, longer.origin), { message: /damaged or not/ }, text);
    }
  });
}

t.test("little memory divides batches: the same numbers, but for rounding", async (t) => {
  const [whole, divided] = [await finished(), await finished({ options: { memory: 1 << 20 } })];
  for (const [i, loss] of whole.losses.entries()) t.ok(Math.abs(divided.losses[i]! / loss - 1) < 1e-3);
});

t.test("it ends when nothing gets better", async (t) => {
  await using job = await Job.open(
    runtime,
    request({ options: { patience: 2, evaluateEvery: 1, steps: 50, learningRate: 1e-30 } }),
    true,
  );
  await runTraining(job.training, { signal: never, save: noSave });
  t.equal(job.training.progress.step, 3);
});

t.test("too high a learning rate is told", async (t) => {
  await using job = await Job.open(runtime, request({ options: { learningRate: 1e39, warmup: 0, steps: 5 } }), true);
  await t.rejects(runTraining(job.training, { signal: never, save: noSave }), {
    code: "diverged",
    message: /not finite: try a lower learning rate than 1e\+39/,
  });
});

t.test("options that cannot be are told", async (t) => {
  for (const [options, message] of [
    [{ kind: "prompt", hidden: 8 }, /without a network/],
    [{ virtualTokens: 511 }, /do not fit/],
    [{ dropout: 1 }, /dropout/],
    [{ warmup: 12 }, /leaves nothing/],
  ] as const)
    await t.rejects(Job.open(runtime, request({ badLines: 1, options }), true), { message });
});

t.test("without a word it begins as random tokens, in a prefix nearer than noise", async (t) => {
  for (const kind of ["prefix", "prompt"] as const) {
    const begin = async (initial: "random" | "normal", seed: number): Promise<[Float32Array, number]> => {
      await using job = await Job.open(runtime, request({ initial: { kind: initial }, options: { kind, seed } }), true);
      return [job.training.result().slice(), (await job.training.evaluate()).loss];
    };
    const [tokens, loss] = await begin("random", 1);
    t.ok(areEqual((await begin("random", 1))[0], tokens), "the same seed, the same tokens");
    t.notOk(areEqual((await begin("random", 2))[0], tokens));
    const [noise, lossOfNoise] = await begin("normal", 1);
    const square = noise.reduce((sum, value) => sum + value ** 2, 0) / noise.length;
    t.ok(Math.abs(square - 1) < 0.1, `${kind}: variance ${square}`);
    if (kind === "prefix") t.ok(loss < lossOfNoise, `${loss} < ${lossOfNoise}`);
  }
});

t.test("it begins as a text, or as another adapter", async (t) => {
  const begin = async (
    change: RequestChange,
  ): Promise<{ values: Float32Array; files: ReadonlyMap<string, Uint8Array> }> => {
    await using job = await Job.open(runtime, request({ ...change, holdOut: 0 }), true);
    return { values: job.training.result().slice(), files: job.files() };
  };
  const { values, files } = await begin({ initial: { kind: "text", text: "reverse the words" } });
  const folder = join(dir, "adapter");
  const { writeFolder } = await import("../../src/cli/whole-folder.ts");
  writeFolder(folder, files, true);
  t.ok(areEqual((await begin({ initial: { kind: "folder", dir: folder } })).values, values));
  // A network comes close.
  let error = NaN;
  await using job = await Job.open(
    runtime,
    request({ initial: { kind: "folder", dir: folder }, options: { hidden: 64 } }),
    true,
    { onFit: (value) => (error = value) },
  );
  t.equal(job.counts.held, 16);
  const size = Math.sqrt(values.reduce((sum, value) => sum + value ** 2, 0) / values.length);
  t.ok(error < 0.2 * size, `${error} of ${size}`);

  const prompt = await begin({
    initial: { kind: "text", text: "reverse" },
    options: { kind: "prompt", virtualTokens: 3 },
  });
  const weights = prompt.files.get("adapter_model.safetensors")!;
  const { tensors, metadata } = parseSafetensorsHeader(weights, weights.length, { maxHeaderBytes: 4096 });
  const { shape, start, end } = tensors.get("prompt_embeddings")!;
  t.same(shape, [3, 256]);
  t.ok(metadata.has("prefixd_base_fingerprint"));
  t.ok(areEqual(decodeFloats("F32", weights.subarray(start, end)), prompt.values));
  await t.rejects(begin({ initial: { kind: "folder", dir: folder }, options: { virtualTokens: 5 } }), {
    message: /has 4 virtual tokens, but 5/,
  });
  await t.rejects(begin({ initial: { kind: "folder", dir: folder }, options: { kind: "prompt" } }), {
    message: /cannot start from a prefix/,
  });
});

t.test("the learning rate rises and falls", async (t) => {
  t.same(
    Array.from({ length: 7 }, (_, step) => linearSchedule(step, 6, 2)),
    [0, 0.5, 1, 0.75, 0.5, 0.25, 0],
  );
  t.equal(linearSchedule(0, 6, 0), 1);
});

t.test("the number of steps follows the number of examples, within bounds", async (t) => {
  t.same(
    [10, 950, 4000, 15_000, 40_000].map((examples) => defaultSteps(examples, 8)),
    [1000, 1000, 1000, 3750, 5000],
  );
  const stepsOf = async (change: RequestChange): Promise<number> => {
    await using job = await Job.open(runtime, request(change), true);
    return job.training.options.steps;
  };
  t.equal(await stepsOf({ options: { steps: null } }), 1000, "64 examples");
  t.equal(await stepsOf({ options: { steps: 7 } }), 7);
  t.equal(await stepsOf({ epochs: 3, options: { steps: null } }), 24);
});
