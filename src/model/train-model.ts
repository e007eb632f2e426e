/** Everything of the model that training uses, over the files that serving uses. */
import { dirname } from "node:path";
import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";
import { foldLength } from "../kv.ts";
import { DEVICES } from "../runtime/devices.ts";
import type { Device } from "../runtime/device.ts";
import type { Runtime } from "../runtime/session.ts";
import type { Checkpoint, Gpt2Config } from "./checkpoint.ts";
import { ensureGraph } from "./graph-cache.ts";
import { Gpt2Runner } from "./gpt2-runner.ts";
import { PrefixNetwork } from "./prefix-network.ts";
import type { TrainedKind } from "./train-graph.ts";
import { TrainStep } from "./train-step.ts";

export interface TrainModelOptions {
  readonly kind: TrainedKind;
  readonly virtualTokens: number;
  /** Width of the network behind a prefix; null: none. */
  readonly hidden: number | null;
  /** Threads inside one operator on the CPU; 0: one per core. */
  readonly threads: number;
  /** Folder of the built graphs. */
  readonly graphs: string;
  /** Where forward and backward pass run; default: the CPU. */
  readonly device?: Device;
  /** See TrainStepOptions. */
  readonly packWeights?: boolean;
}

const CHUNK_BYTES = 4 << 20;

export class TrainModel implements Disposable {
  readonly config: Gpt2Config;
  readonly shape: ModelShape;
  readonly fingerprint: string;
  readonly step: TrainStep;
  readonly network: PrefixNetwork | null;
  readonly #runtime: Runtime;
  readonly #checkpoint: Checkpoint;
  readonly #graph: string;
  readonly #threads: number;

  /** The checkpoint must stay open. @throws ModelLoadError, OrtError, file system errors */
  static async open(runtime: Runtime, checkpoint: Checkpoint, options: TrainModelOptions): Promise<TrainModel> {
    return new TrainModel(runtime, checkpoint, await ensureGraph(checkpoint, options.graphs, "fp32"), options);
  }

  private constructor(runtime: Runtime, checkpoint: Checkpoint, graph: string, options: TrainModelOptions) {
    const { config, shape, fingerprint } = checkpoint;
    const { virtualTokens, hidden, threads } = options;
    [this.#runtime, this.#checkpoint, this.#graph, this.#threads] = [runtime, checkpoint, graph, threads];
    [this.config, this.shape, this.fingerprint] = [config, shape, fingerprint];
    this.step = new TrainStep(runtime, { ...options, config, folder: dirname(graph) });
    this.network =
      hidden === null
        ? null
        : new PrefixNetwork(runtime, { config, virtualTokens, hidden, threads }, this.step.values, this.step.gradient);
  }

  /** The keys and values of tokens or embeddings at the first positions. @throws OrtError, PrefixdError */
  async fold(input: FoldInput): Promise<KvTensor> {
    const runner = await Gpt2Runner.open(this.#runtime, {
      modelPath: this.#graph,
      shape: this.shape,
      slots: 1,
      threads: this.#threads,
      device: DEVICES.cpu,
      precision: "fp32",
      bankBytes: 0,
    });
    try {
      const length = foldLength(input);
      for (let from = 0; from < length; from += runner.longestChunk)
        await runner.fold(input, from, Math.min(length, from + runner.longestChunk));
      return await runner.read(runner.slots, length);
    } finally {
      await runner.close();
    }
  }

  /**
   * The embedding of every token times a vector: `[vocabSize]`. The table is read in pieces, and summed up in float64.
   * @param vector `[width]`
   */
  async products(vector: Float32Array): Promise<Float64Array> {
    const products = new Float64Array(this.shape.vocabSize);
    let [token, column] = [0, 0];
    for await (const chunk of this.#checkpoint.tensor("wte.weight").chunks(CHUNK_BYTES)) {
      for (const value of chunk) {
        products[token]! += value * vector[column]!;
        if (++column === vector.length) [token, column] = [token + 1, 0];
      }
    }
    return products;
  }

  /** The tokens' rows of the embedding, `[ids, width]`. */
  async embeddings(ids: Int32Array): Promise<Float32Array> {
    const { width } = this.config;
    const rows = new Float32Array(ids.length * width);
    let first = 0;
    for await (const chunk of this.#checkpoint.tensor("wte.weight").chunks(CHUNK_BYTES)) {
      for (const [row, id] of ids.entries()) {
        const from = Math.max(id * width, first);
        const to = Math.min((id + 1) * width, first + chunk.length);
        if (from < to) rows.set(chunk.subarray(from - first, to - first), row * width + from - id * width);
      }
      first += chunk.length;
    }
    return rows;
  }

  [Symbol.dispose](): void {
    this.network?.[Symbol.dispose]();
    this.step[Symbol.dispose]();
  }
}
