/**
 * Which hyperparameters train well? Trains prefixes of the demo model with each variant and prints loss and exact
 * matches on rows that were not trained on. Only for the choice of defaults: a bench for test rows is another thing.
 *
 *     npx tsx bench/training-defaults.ts FOLDER TASK,... VARIANT.json...
 *
 * FOLDER has TASK.train.jsonl and TASK.dev.jsonl, as `prefixd train` reads them. A variant is a JSON object of training
 * options, with `init`: "random" or a text, and `rows`: how many rows of the training file are used.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../src/model/checkpoint.ts";
import { TrainModel } from "../src/model/train-model.ts";
import { Runtime } from "../src/runtime/session.ts";
import { loadTokenizer } from "../src/text/tokenizer.ts";
import { readExamples, type Examples } from "../src/training/data/examples.ts";
import { setInitial } from "../src/training/initial.ts";
import { graphKind, type TrainingOptions } from "../src/training/options.ts";
import { Descent } from "../src/training/descent.ts";
import { rawValues, throughNetwork } from "../src/training/parametrisation.ts";
import { runTraining } from "../src/training/run.ts";
import { Training } from "../src/training/training.ts";

const BASE: TrainingOptions = {
  kind: "prefix",
  virtualTokens: 10,
  hidden: null,
  batchSize: 16,
  steps: 300,
  learningRate: 0.1,
  warmup: 10,
  weightDecay: 0,
  clip: 1,
  dropout: 0,
  evaluateEvery: 1e9,
  patience: 0,
  seed: 1,
  memory: 1 << 30,
  threads: 2,
};

type Variant = Partial<TrainingOptions> & { readonly init?: string; readonly rows?: number };

const [folder, tasks, ...variants] = process.argv.slice(2);
if (folder === undefined || tasks === undefined || variants.length === 0)
  throw new Error("usage: training-defaults.ts FOLDER TASK,... VARIANT...");
using runtime = new Runtime();
const checkpoint = await openCheckpoint("models/demo");
const tokenizer = await loadTokenizer("models/demo", checkpoint.shape.vocabSize);
const graphs = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
for (const task of tasks.split(",")) {
  const read = (split: string): Promise<Examples> =>
    readExamples(join(folder, `${task}.${split}.jsonl`), {
      tokenizer,
      eosId: tokenizer.eosId!,
      maxTokens: 256,
      tooLong: "refuse",
      badLines: 0.01,
    });
  const [train, dev] = [await read("train"), await read("dev")];
  for (const text of variants) {
    const { init = "random", rows = train.count, ...given } = JSON.parse(text) as Variant;
    const options = { ...BASE, ...given };
    using model = await TrainModel.open(runtime, checkpoint, { ...options, kind: graphKind(options.kind), graphs });
    const parametrisation = model.network === null ? rawValues(model.step) : throughNetwork(model.network);
    const training = new Training({
      model: model.step,
      learner: new Descent(model.step, parametrisation, options),
      train: { examples: train, indices: first(Math.min(rows, train.count)) },
      held: { examples: dev, indices: first(Math.min(200, dev.count)) },
      options,
    });
    const initial =
      init === "random" ? ({ kind: "random" } as const) : ({ kind: "tokens", ids: tokenizer.encode(init) } as const);
    await setInitial(model, parametrisation, initial, options.seed);
    const began = performance.now();
    const outcome = await runTraining(training, { signal: new AbortController().signal, save: async () => {} }).catch(
      (error: unknown) => String(error),
    );
    const { loss, exact, accuracy } = training.progress.evaluations.at(-1) ?? { loss: NaN, exact: NaN, accuracy: NaN };
    const seconds = (performance.now() - began) / 1000;
    console.log(
      `${task} ${text}: ${outcome}, dev loss ${loss.toFixed(4)}, tokens ${(100 * accuracy).toFixed(1)} %, exact ${(100 * exact).toFixed(1)} %, ${seconds.toFixed(0)} s`,
    );
  }
}
await checkpoint.close();

function first(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, index) => index);
}
