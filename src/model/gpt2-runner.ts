/** GPT-2 on an ORT session: a KV cache of slots, updated in place, and the bindings that let a step copy nothing but ids. */
import type { ModelRunner, StepOutput } from "../engine/model-runner.ts";
import { PrefixdError } from "../errors.ts";
import { kvElements, type FoldInput, type KvTensor, type ModelShape } from "../kv.ts";
import type { Binding, Runtime, Session, Tensor } from "../runtime/session.ts";
import { CANDIDATES } from "./gpt2-graph.ts";
import { exactIntegerKernels } from "./integer-kernels.ts";

export interface RunnerOptions {
  readonly modelPath: string;
  readonly shape: ModelShape;
  /** Sequences that can run at once. */
  readonly slots: number;
  /** Threads inside one operator; 0: one per core. */
  readonly threads: number;
}

/** One run's small inputs and its binding, kept for every batch size seen. */
interface DecodeBatch {
  readonly ids: BigInt64Array;
  readonly positions: BigInt64Array;
  readonly seqlens: Int32Array;
  readonly total: Int32Array;
  readonly binding: Binding;
}

/** An id that stands for a row of soft_embeds. */
const SOFT_ID = -1n;

export class Gpt2Runner implements ModelRunner {
  readonly shape: ModelShape;
  readonly slots: number;
  readonly candidates: number;
  readonly #runtime: Runtime;
  readonly #session: Session;
  /** Per layer key then value, each `[slots + 1, heads, positions, headDim]`; the last row is for folding. */
  readonly #cache: readonly Float32Array[];
  readonly #outputs: { logits: Float32Array; topLogits: Float32Array; topIds: Int32Array; logSumExp: Float32Array };
  readonly #noSoftEmbeds: Tensor;
  readonly #rowTensors = new Map<number, readonly Tensor[]>();
  readonly #batches = new Map<number, DecodeBatch>();
  readonly #owned: Disposable[] = [];

  /** @throws OrtError when the graph cannot be loaded. */
  constructor(runtime: Runtime, options: RunnerOptions) {
    const { shape, slots } = options;
    this.shape = shape;
    this.slots = slots;
    this.candidates = Math.min(CANDIDATES, shape.vocabSize);
    this.#runtime = runtime;
    this.#session = runtime.session(options.modelPath, { threads: options.threads, config: exactIntegerKernels() });
    // The system hands out zeroed pages when they are first touched: an idle slot costs address space, not memory.
    this.#cache = Array.from({ length: 2 * shape.layers }, () => new Float32Array((slots + 1) * this.#rowElements));
    this.#outputs = {
      logits: new Float32Array(slots * shape.vocabSize),
      topLogits: new Float32Array(slots * this.candidates),
      topIds: new Int32Array(slots * this.candidates),
      logSumExp: new Float32Array(slots),
    };
    this.#noSoftEmbeds = this.#own(runtime.tensor(new Float32Array(shape.width), [1, 1, shape.width]));
  }

  /** @throws RangeError for a prefix of another shape: it would spill into what lies behind it in the cache. */
  loadPrefix(row: number, prefix: KvTensor): void {
    if (prefix.length > this.shape.positions || prefix.data.length !== kvElements(this.shape, prefix.length)) {
      throw new RangeError(`a prefix of length ${prefix.length} with ${prefix.data.length} values does not fit this model`);
    }
    const run = prefix.length * this.shape.headDim;
    this.#eachHead(row, (cache, at, index) => cache.set(prefix.data.subarray(index * run, (index + 1) * run), at));
  }

  copyRow(from: number, to: number, length: number): void {
    const run = length * this.shape.headDim;
    const distance = (from - to) * this.#rowElements;
    this.#eachHead(to, (cache, at) => cache.copyWithin(at, at + distance, at + distance + run));
  }

  async prefill(row: number, start: number, ids: Int32Array): Promise<StepOutput> {
    return this.#forward(row, start, BigInt64Array.from(ids, BigInt), this.#noSoftEmbeds);
  }

  async decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput> {
    const batch = this.#batch(ids.length);
    let longest = 0;
    for (let row = 0; row < ids.length; row++) {
      const position = positions[row]!;
      batch.ids[row] = BigInt(ids[row]!);
      batch.positions[row] = BigInt(position);
      batch.seqlens[row] = position;
      longest = Math.max(longest, position + 1);
    }
    batch.total[0] = longest;
    await this.#run(batch.binding);
    return this.#output(ids.length);
  }

  async fold(input: FoldInput): Promise<KvTensor> {
    const row = this.slots;
    const length = input.kind === "tokens" ? input.ids.length : input.length;
    if (input.kind === "tokens") {
      await this.prefill(row, 0, input.ids);
    } else {
      using embeds = this.#runtime.tensor(input.data, [1, length, this.shape.width]);
      await this.#forward(row, 0, new BigInt64Array(length).fill(SOFT_ID), embeds);
    }
    return this.#copyOut(row, length);
  }

  wipe(row: number, from: number, to: number): void {
    const { headDim } = this.shape;
    this.#eachHead(row, (cache, at) => cache.fill(0, at + from * headDim, at + to * headDim));
  }

  wipeBuffers(): void {
    for (const buffer of Object.values(this.#outputs)) buffer.fill(0);
    for (const { ids } of this.#batches.values()) ids.fill(0n);
  }

  /** A copy of a row's keys and values at positions `[0, positions)`, as a KvTensor has them: for tests of what is left in it. */
  readRow(row: number): KvTensor {
    return this.#copyOut(row, this.shape.positions);
  }

  close(): Promise<void> {
    for (const batch of this.#batches.values()) batch.binding[Symbol.dispose]();
    for (const owned of this.#owned.reverse()) owned[Symbol.dispose]();
    this.#session[Symbol.dispose]();
    return Promise.resolve();
  }

  get #rowElements(): number {
    return this.shape.heads * this.shape.positions * this.shape.headDim;
  }

  /** Calls back for each (layer, key or value, head) of a row: the cache, where the head begins, its index in a KvTensor. */
  #eachHead(row: number, visit: (cache: Float32Array, at: number, index: number) => void): void {
    const { heads, positions, headDim } = this.shape;
    let index = 0;
    for (const cache of this.#cache) {
      for (let head = 0; head < heads; head++) visit(cache, (row * heads + head) * positions * headDim, index++);
    }
  }

  #copyOut(row: number, length: number): KvTensor {
    const data = new Float32Array(kvElements(this.shape, length));
    const run = length * this.shape.headDim;
    this.#eachHead(row, (cache, at, index) => data.set(cache.subarray(at, at + run), index * run));
    return { length, data };
  }

  /** Feeds one row at positions `[start, start + ids.length)`. */
  async #forward(row: number, start: number, ids: BigInt64Array, softEmbeds: Tensor): Promise<StepOutput> {
    const length = ids.length;
    const positions = BigInt64Array.from(ids, (_, index) => BigInt(start + index));
    using idsTensor = this.#runtime.tensor(ids, [1, length]);
    using positionsTensor = this.#runtime.tensor(positions, [1, length]);
    using seqlens = this.#runtime.tensor(Int32Array.of(start + length - 1), [1]);
    using total = this.#runtime.tensor(Int32Array.of(start + length), [1]);
    const outputs = this.#outputTensors(1);
    try {
      using binding = this.#bind({ idsTensor, positionsTensor, seqlens, total, softEmbeds }, this.#rows(row, 1), outputs);
      await this.#run(binding);
    } finally {
      for (const tensor of outputs) tensor[Symbol.dispose]();
    }
    return this.#output(1);
  }

  #batch(rows: number): DecodeBatch {
    const known = this.#batches.get(rows);
    if (known !== undefined) return known;
    const ids = new BigInt64Array(rows);
    const positions = new BigInt64Array(rows);
    const seqlens = new Int32Array(rows);
    const total = new Int32Array(1);
    const small = {
      idsTensor: this.#own(this.#runtime.tensor(ids, [rows, 1])),
      positionsTensor: this.#own(this.#runtime.tensor(positions, [rows, 1])),
      seqlens: this.#own(this.#runtime.tensor(seqlens, [rows])),
      total: this.#own(this.#runtime.tensor(total, [1])),
      softEmbeds: this.#noSoftEmbeds,
    };
    const outputs = this.#outputTensors(rows).map((tensor) => this.#own(tensor));
    const batch = { ids, positions, seqlens, total, binding: this.#bind(small, this.#rows(0, rows), outputs) };
    this.#batches.set(rows, batch);
    return batch;
  }

  #bind(
    small: Record<"idsTensor" | "positionsTensor" | "seqlens" | "total" | "softEmbeds", Tensor>,
    rows: readonly Tensor[],
    [logits, topLogits, topIds, logSumExp]: readonly Tensor[],
  ): Binding {
    const past: Record<string, Tensor> = {};
    const present: Record<string, Tensor> = {};
    rows.forEach((tensor, index) => {
      const name = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      past[`past_${name}`] = present[`present_${name}`] = tensor;
    });
    return this.#session.binding(
      {
        input_ids: small.idsTensor,
        position_ids: small.positionsTensor,
        soft_embeds: small.softEmbeds,
        seqlens_k: small.seqlens,
        total_sequence_length: small.total,
        ...past,
      },
      { logits: logits!, top_logits: topLogits!, top_ids: topIds!, log_sum_exp: logSumExp!, ...present },
    );
  }

  /** Tensors over rows `[row, row + count)` of every layer's keys and values. Single rows are kept: every prefill needs them. */
  #rows(row: number, count: number): readonly Tensor[] {
    const known = count === 1 ? this.#rowTensors.get(row) : undefined;
    if (known !== undefined) return known;
    const { heads, positions, headDim } = this.shape;
    const tensors = this.#cache.map((cache) =>
      this.#own(
        this.#runtime.tensor(cache.subarray(row * this.#rowElements, (row + count) * this.#rowElements), [count, heads, positions, headDim]),
      ),
    );
    if (count === 1) this.#rowTensors.set(row, tensors);
    return tensors;
  }

  #outputTensors(rows: number): Tensor[] {
    const { logits, topLogits, topIds, logSumExp } = this.#outputs;
    const { vocabSize } = this.shape;
    return [
      this.#runtime.tensor(logits.subarray(0, rows * vocabSize), [rows, vocabSize]),
      this.#runtime.tensor(topLogits.subarray(0, rows * this.candidates), [rows, this.candidates]),
      this.#runtime.tensor(topIds.subarray(0, rows * this.candidates), [rows, this.candidates]),
      this.#runtime.tensor(logSumExp.subarray(0, rows), [rows, 1]),
    ];
  }

  #output(rows: number): StepOutput {
    const { logits, topLogits, topIds, logSumExp } = this.#outputs;
    const { vocabSize } = this.shape;
    return { rows, topLogits, topIds, logSumExp, logits: (row) => logits.subarray(row * vocabSize, (row + 1) * vocabSize) };
  }

  async #run(binding: Binding): Promise<void> {
    try {
      await this.#session.run(binding);
    } catch (error) {
      throw new PrefixdError("model_failed", "The model run failed.", { cause: error });
    }
  }

  #own<T extends Disposable>(object: T): T {
    this.#owned.push(object);
    return object;
  }
}
