/** A run's outputs, in memory reused by the next run. */
import type { StepOutput } from "../engine/runner.ts";
import type { Device } from "../runtime/device.ts";
import { ElementType } from "../runtime/ort-api.ts";
import { DeviceTensor, type HostTensor, type Runtime, type Session, type Tensor } from "../runtime/session.ts";
import { pickGraph, storeGraph } from "./cache-graphs.ts";
import { answerColumns } from "./gpt2-graph.ts";
import { DataType } from "./onnx-writer.ts";

/** Small graphs that read logits left in device memory. */
export class LogitsGraphs implements Disposable {
  readonly pick: Session;
  readonly store: Session;

  constructor(runtime: Runtime, device: Device, vocabSize: number) {
    this.pick = runtime.session(pickGraph(vocabSize), { threads: 1, device });
    this.store = runtime.session(storeGraph(DataType.float, { layers: 0, heads: 0, headDim: vocabSize }), {
      threads: 1,
      device,
    });
  }

  [Symbol.dispose](): void {
    this.pick[Symbol.dispose]();
    this.store[Symbol.dispose]();
  }
}

export interface StepBuffersOptions {
  /** Capacity in rows. */
  readonly rows: number;
  readonly candidates: number;
  readonly vocabSize: number;
  /** The model's session: logits stay in its device's memory. */
  readonly session: Session;
  /** Null when logits are in host memory. */
  readonly graphs: LogitsGraphs | null;
}

export class StepBuffers implements Disposable {
  readonly rows: number;
  readonly #options: StepBuffersOptions;
  readonly #runtime: Runtime;
  /** `[rows, vocabSize]` */
  readonly #logits: DeviceTensor | HostTensor<Float32Array>;
  /** `[rows, answerColumns]`, a device graph's packed answers; null on the CPU. */
  readonly #answers: Float32Array | null;
  readonly #topLogits: Float32Array;
  /** The CPU graph's int64 ids; null elsewhere. */
  readonly #topIds64: BigInt64Array | null;
  readonly #topIds: Int32Array;
  readonly #topProbability: Float32Array;
  readonly #logSumExp: Float32Array;

  constructor(runtime: Runtime, options: StepBuffersOptions) {
    const { rows, candidates, vocabSize, session, graphs } = options;
    this.#runtime = runtime;
    this.#options = options;
    this.rows = rows;
    this.#answers = graphs === null ? null : new Float32Array(rows * answerColumns(candidates));
    this.#topLogits = new Float32Array(rows * candidates);
    this.#topIds64 = graphs === null ? new BigInt64Array(rows * candidates) : null;
    this.#topIds = new Int32Array(rows * candidates);
    this.#topProbability = new Float32Array(rows);
    this.#logSumExp = new Float32Array(rows);
    this.#logits =
      graphs === null
        ? runtime.tensor(new Float32Array(rows * vocabSize), [rows, vocabSize])
        : session.allocate(ElementType.float32, [rows, vocabSize]);
  }

  /** Output tensors over the first `rows` rows, by the graph's names. The caller disposes of them. */
  tensors(rows: number): Readonly<Record<string, Tensor>> {
    const { candidates, vocabSize } = this.#options;
    const shaped = (data: Float32Array | BigInt64Array, columns: number): Tensor =>
      this.#runtime.tensor(data.subarray(0, rows * columns), [rows, columns]);
    const logits =
      this.#logits instanceof DeviceTensor
        ? this.#logits.view([rows, vocabSize])
        : shaped(this.#logits.data, vocabSize);
    if (this.#answers !== null) return { logits, answers: shaped(this.#answers, answerColumns(candidates)) };
    return {
      logits,
      top_logits: shaped(this.#topLogits, candidates),
      top_ids: shaped(this.#topIds64!, candidates),
      top_probability: shaped(this.#topProbability, 1),
    };
  }

  /** The last run's output. */
  output(rows: number): StepOutput {
    const { candidates } = this.#options;
    if (this.#answers !== null) this.#unpack(this.#answers, rows);
    if (this.#topIds64 !== null) {
      // Ids fit 32 bits: keep the lower half of each.
      const words = new Int32Array(this.#topIds64.buffer);
      for (let index = 0; index < rows * candidates; index++) this.#topIds[index] = words[2 * index]!;
    }
    for (let row = 0; row < rows; row++)
      this.#logSumExp[row] = this.#topLogits[row * candidates]! - Math.log(this.#topProbability[row]!);
    return {
      rows,
      candidates,
      topLogits: this.#topLogits,
      topIds: this.#topIds,
      logSumExp: this.#logSumExp,
      logits: (row) => this.#row(row),
    };
  }

  wipe(): void {
    for (const buffer of [this.#topLogits, this.#topIds, this.#topProbability, this.#logSumExp]) buffer.fill(0);
    this.#answers?.fill(0);
    this.#topIds64?.fill(0n);
    if (!(this.#logits instanceof DeviceTensor)) return void this.#logits.data.fill(0);
    const { vocabSize, graphs } = this.#options;
    using vectors = this.#runtime.tensor(new Float32Array(vocabSize), [1, vocabSize]);
    for (let row = 0; row < this.rows; row++) {
      using toAt = this.#runtime.tensor(BigInt64Array.of(BigInt(row)), [1, 1]);
      using binding = graphs!.store.binding({ vectors, to_at: toAt, bank: this.#logits }, { stored: this.#logits });
      graphs!.store.runNow(binding);
    }
  }

  [Symbol.dispose](): void {
    this.#logits[Symbol.dispose]();
  }

  #unpack(answers: Float32Array, rows: number): void {
    const { candidates } = this.#options;
    const columns = answerColumns(candidates);
    for (let row = 0; row < rows; row++) {
      const [logits, ids] = [row * columns, row * columns + candidates];
      this.#topLogits.set(answers.subarray(logits, ids), row * candidates);
      this.#topIds.set(answers.subarray(ids, ids + candidates), row * candidates);
      this.#topProbability[row] = answers[ids + candidates]!;
    }
  }

  #row(row: number): Float32Array {
    const { vocabSize, graphs } = this.#options;
    if (!(this.#logits instanceof DeviceTensor))
      return this.#logits.data.subarray(row * vocabSize, (row + 1) * vocabSize);
    const picked = new Float32Array(vocabSize);
    using at = this.#runtime.tensor(Int32Array.of(row), [1]);
    using to = this.#runtime.tensor(picked, [1, vocabSize]);
    using binding = graphs!.pick.binding({ logits: this.#logits, row: at }, { picked: to });
    graphs!.pick.runNow(binding);
    return picked;
  }
}
