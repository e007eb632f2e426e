import t from "tap";
import { PrefixNetwork } from "../../src/model/prefix-network.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { AdamW, clipFactor, gradientNorm, linearSchedule } from "../../src/training/optimizer.ts";
import { rawValues, throughNetwork, type Parametrisation } from "../../src/training/parametrisation.ts";
import type { TrainStep } from "../../src/model/train-step.ts";
import { joinHeads, splitHeads } from "../../src/prefixes/peft-layout.ts";
import { goldenTraining, mean, relativeError, sequenceOf, withStep, type GoldenRow } from "../support/training.ts";

interface Curves {
  readonly model: string;
  readonly virtual_tokens: number;
  readonly hidden: number;
  readonly warmup: number;
  readonly clip: number;
  readonly curves: readonly {
    kind: "prefix" | "prefix-network" | "prompt";
    learning_rate: number;
    weight_decay: number;
    losses: number[];
  }[];
  readonly batches: readonly GoldenRow[][];
}

const { document, tensor } = goldenTraining<Curves>("curves");
const { virtual_tokens: virtualTokens, hidden, batches, warmup, clip } = document;
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

for (const { kind, losses, learning_rate: rate, weight_decay: weightDecay } of document.curves) {
  t.test(`${kind}: PEFT's losses, step by step, and PEFT's result`, async (t) => {
    const options = { kind: kind === "prompt" ? ("prompt" as const) : ("prefix" as const), virtualTokens };
    await withStep(runtime, document.model, options, async (step, config) => {
      using network =
        kind === "prefix-network"
          ? new PrefixNetwork(runtime, { config, virtualTokens, hidden, threads: 1 }, step.values, step.gradient)
          : null;
      const parametrisation = network === null ? rawValues(step) : throughNetwork(network);
      setInitial(parametrisation, kind, step);
      const parameters = [...parametrisation.parameters.values()];
      const optimizer = new AdamW(parameters, { weightDecay });
      for (const [at, rows] of batches.entries()) {
        parametrisation.forward();
        const { nll } = await step.run([rows.slice(0, 3).map(sequenceOf), rows.slice(3).map(sequenceOf)]);
        t.ok(Math.abs(mean(nll) - losses[at]!) < 1e-3, `step ${at}: ${mean(nll)}, PEFT's ${losses[at]}`);
        parametrisation.backward();
        const scale = clipFactor(gradientNorm(parameters), clip);
        optimizer.update(rate * linearSchedule(at, batches.length, warmup), scale);
      }
      parametrisation.forward();
      const saved = kind === "prompt" ? step.values : joinHeads(step.values, virtualTokens, config);
      const error = relativeError(saved, tensor(`${kind}/saved`));
      t.ok(error < 1e-5, `saved: ${error}`);
    });

    function setInitial({ parameters }: Parametrisation, kind: string, { options }: TrainStep): void {
      for (const [name, { values }] of parameters) {
        const given = tensor(`${kind}/${name === "values" ? "embedding.weight" : name}`);
        if (kind === "prefix") splitHeads(given, 0, values, virtualTokens, options.config);
        else values.set(given);
      }
    }
  });
}
