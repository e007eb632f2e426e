/** Runs the training graph: loss and gradient of a prefix or a prompt on batches of token sequences. */
import type { Device } from "../runtime/device.ts";
import type { Runtime, Session, Tensor, TensorData } from "../runtime/session.ts";
import type { Gpt2Config } from "./checkpoint.ts";
import { DATA_FILE } from "./graph-cache.ts";
import { targetCount, trainBatch, type TrainSequence } from "./train-batch.ts";
import { trainGraph, type TrainedKind } from "./train-graph.ts";

export interface TrainStepOptions {
  readonly config: Gpt2Config;
  /** The folder of the graph that `ensureGraph` made for fp32, with the weights. */
  readonly folder: string;
  readonly kind: TrainedKind;
  readonly virtualTokens: number;
  /** Threads inside one operator on the CPU; 0: one per core. */
  readonly threads: number;
  readonly device?: Device;
  /**
   * For the backward pass on the CPU: copy each weight into the two forms in which products read it. Faster, for twice the weights' size in
   * memory of this process; without, the file's pages are read as they are mapped, which processes share. Decides the last bits.
   */
  readonly packWeights?: boolean;
}

/** Per target, in the order of the sequences. */
export interface TargetLosses {
  /** Negative log-likelihoods, in nats. */
  readonly nll: Float32Array;
  /** The largest logit minus the target's: 0 where the target is the likeliest token. */
  readonly margin: Float32Array;
}

export class TrainStep implements Disposable {
  readonly options: TrainStepOptions;
  /** prefix: `[L, 2, H, P, D]`; prompt: `[P, E]`. Read at each run. */
  readonly values: Float32Array;
  /** The last run's gradient of the mean loss with respect to `values`, same shape. */
  readonly gradient: Float32Array;
  readonly shape: readonly number[];
  readonly #runtime: Runtime;
  readonly #ofPart: Float32Array;
  /** With and without the backward pass, opened when they are first needed. */
  readonly #sessions = new Map<boolean, Session>();

  constructor(runtime: Runtime, options: TrainStepOptions) {
    const { layers, heads, headDim, width } = options.config;
    const { virtualTokens: length, kind } = options;
    this.#runtime = runtime;
    this.options = options;
    this.shape = kind === "prefix" ? [layers, 2, heads, length, headDim] : [length, width];
    const count = this.shape.reduce((product, size) => product * size, 1);
    this.values = new Float32Array(count);
    this.gradient = new Float32Array(count);
    this.#ofPart = new Float32Array(count);
  }

  /**
   * Loss of every target, in order, and in `gradient` the gradient of their mean. The batch is given in parts that run
   * one after the other, so that only one needs memory. The same parts give the same bits, whatever ran before.
   * @throws OrtError
   */
  async run(parts: readonly (readonly TrainSequence[])[]): Promise<TargetLosses> {
    const weight = 1 / parts.flat().reduce((sum, sequence) => sum + targetCount(sequence), 0);
    const losses: TargetLosses[] = [];
    this.gradient.fill(0);
    for (const part of parts) {
      losses.push(await this.#run(part, weight));
      for (const [i, value] of this.#ofPart.entries()) this.gradient[i]! += value;
    }
    return joined(losses);
  }

  /** The losses alone, in about a third of the time. @throws OrtError */
  async evaluate(parts: readonly (readonly TrainSequence[])[]): Promise<TargetLosses> {
    const losses: TargetLosses[] = [];
    for (const part of parts) losses.push(await this.#run(part, null));
    return joined(losses);
  }

  /** Opens the model at once, to learn whether the device can run it. @throws OrtError */
  prepare(): void {
    for (const backward of [true, false]) this.#session(backward);
  }

  [Symbol.dispose](): void {
    for (const session of this.#sessions.values()) session[Symbol.dispose]();
    this.#sessions.clear();
  }

  /** @param weight null: without gradient */
  async #run(sequences: readonly TrainSequence[], weight: number | null): Promise<TargetLosses> {
    const { kind, virtualTokens, config } = this.options;
    const batch = trainBatch(sequences, kind, virtualTokens, config);
    const nll = new Float32Array(batch.targets);
    const margin = new Float32Array(batch.targets);
    const owned: Disposable[] = [];
    const tensor = (data: TensorData, shape: readonly number[]): Tensor => {
      const made = this.#runtime.tensor(data, shape);
      owned.push(made);
      return made;
    };
    try {
      const inputs: Record<string, Tensor> = { [kind]: tensor(this.values, this.shape) };
      for (const [name, { data, shape }] of Object.entries(batch.inputs)) inputs[name] = tensor(data, shape);
      const outputs: Record<string, Tensor> = {
        nll: tensor(nll, [batch.targets, 1]),
        margin: tensor(margin, [batch.targets, 1]),
      };
      if (weight !== null) {
        inputs["weight"] = tensor(Float32Array.of(weight), [1, 1]);
        outputs["gradient"] = tensor(this.#ofPart, this.shape);
      }
      const session = this.#session(weight !== null);
      const binding = session.binding(inputs, outputs);
      owned.push(binding);
      await session.run(binding);
      return { nll, margin };
    } finally {
      for (const one of owned.reverse()) one[Symbol.dispose]();
    }
  }

  #session(backward: boolean): Session {
    const known = this.#sessions.get(backward);
    if (known !== undefined) return known;
    const { config, folder, kind, threads, device, packWeights = false } = this.options;
    const session = this.#runtime.session(trainGraph(config, { kind, backward, dataFile: DATA_FILE }), {
      threads,
      ...(device === undefined ? {} : { device }),
      dataFolder: folder,
      anyShape: true,
      config: { "session.disable_prepacking": packWeights && backward ? "0" : "1" },
    });
    this.#sessions.set(backward, session);
    return session;
  }
}

function joined(losses: readonly TargetLosses[]): TargetLosses {
  const join = (of: (one: TargetLosses) => Float32Array): Float32Array =>
    Float32Array.from(losses.flatMap((one) => [...of(one)]));
  return { nll: join((one) => one.nll), margin: join((one) => one.margin) };
}
