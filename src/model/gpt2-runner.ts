/** GPT-2 on an ORT session: a KV cache of slots, updated in place, with bindings so that a step copies only ids. */
import type { Answers, ModelRunner, StepOutput } from "../engine/runner.ts";
import { asModelError, callModel, ModelLoadError, runModel } from "../errors.ts";
import type { FoldInput, KvTensor, ModelShape } from "../kv.ts";
import type { Device } from "../runtime/device.ts";
import { Disposables } from "../runtime/disposables.ts";
import type { Binding, Runtime, Session, Tensor } from "../runtime/session.ts";
import { DeviceKvCache } from "./device-kv-cache.ts";
import { candidatesOf, SOFT_ID } from "./gpt2-graph.ts";
import { floatType, type Precision } from "./graph-weights.ts";
import { HostKvCache, type KvCache } from "./kv-cache.ts";
import { doesChunkingChangeBits, longestRightChunk, TRIAL_TOKENS } from "./chunk-checks.ts";
import type { PrefixBankStats } from "./prefix-bank.ts";
import { leastSteadyRows } from "./row-checks.ts";
import { LogitsGraphs, StepBuffers } from "./step-buffers.ts";
import { StepInputs } from "./step-inputs.ts";
import { MOST_IDS } from "./top-candidates.ts";

export interface RunnerOptions {
  readonly modelPath: string;
  readonly shape: ModelShape;
  /** Sequences that can run concurrently. */
  readonly slots: number;
  /** Threads inside one operator on the CPU; 0: one per core. */
  readonly threads: number;
  /**
   * Microseconds that an idle thread spins before it sleeps; 0: none. Default: ONNX Runtime's, tens of milliseconds.
   */
  readonly spinTime?: number;
  readonly device: Device;
  /** The graph's precision. */
  readonly precision: Precision;
  /** Device memory for hot prefixes, in bytes; rounded up to hold at least one full row. */
  readonly bankBytes: number;
  /** No bit of an answer may depend on what else runs: see openRunner and PagedRunner. Default: false. */
  readonly batchInvariant?: boolean;
  /** Fewest rows of a decode step on a device; default: as many as its kernels need (row-checks.ts). */
  readonly leastRows?: number;
}

/** A run's small inputs and its binding, cached per batch size. */
interface DecodeBatch {
  readonly inputs: StepInputs;
  readonly binding: Binding;
}

/** Minimum output rows on devices: WebGPU's Softmax sums a single row in another order than several. */
const LEAST_OUTPUTS = 2;
/** Each pad takes the memory of a row. */
const MOST_PADS = 64;

export class Gpt2Runner implements ModelRunner {
  readonly shape: ModelShape;
  readonly slots: number;
  longestChunk = Infinity;
  readonly promptsAtOnce = 1;
  chunkingChangesBits = true;
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #cache: KvCache;
  readonly #logitsGraphs: LogitsGraphs | null;
  readonly #outputs: StepBuffers;
  /**
   * Rows of the cache that belong to no sequence, before all others: each decode step feeds them a token, so that it has
   * enough rows for kernels that give every row the same bits.
   */
  readonly #pads: number;
  /** From how many rows on, besides the pads, a row has the same bits (row-checks.ts). */
  #steadyRows = 1;
  /**
   * Buffers for runs that return scores of all tokens. They have as many rows as the longest chunk so far, since most
   * servers never need them.
   */
  #scores: StepBuffers | null = null;
  readonly #batches = new Map<number, DecodeBatch>();
  readonly #owned = new Disposables();

  /**
   * @throws OrtError when the graph cannot be loaded or the device runs out of memory; all its memory is freed
   * @throws ModelLoadError when the vocabulary has more ids than the device can represent
   */
  static async open(runtime: Runtime, options: RunnerOptions): Promise<Gpt2Runner> {
    const open = (pads: number): Promise<Gpt2Runner> => Gpt2Runner.#open(runtime, options, pads);
    if (options.leastRows !== undefined) return open(options.leastRows - 1);
    const runner = await open(0);
    const pads = runner.#steadyRows - 1;
    if (pads === 0 || pads > MOST_PADS) return runner;
    await runner.close();
    const padded = await open(pads);
    if (!padded.rowsChangeBits) return padded;
    await padded.close();
    return open(0);
  }

  static async #open(runtime: Runtime, options: RunnerOptions, pads: number): Promise<Gpt2Runner> {
    const runner = new Gpt2Runner(runtime, options, pads);
    try {
      await runner.#tryChunks(options.device);
      if (!options.device.hostMemory) runner.#steadyRows = await leastSteadyRows(runner);
      return runner;
    } catch (error) {
      await runner.close();
      throw error;
    }
  }

  private constructor(runtime: Runtime, options: RunnerOptions, pads: number) {
    const { shape, slots, device } = options;
    if (!device.hostMemory && shape.vocabSize > MOST_IDS) {
      throw new ModelLoadError(
        "model_unsupported",
        `--device ${device.kind} takes at most ${MOST_IDS} token ids; this model has ${shape.vocabSize}. Use --device cpu.`,
      );
    }
    this.shape = shape;
    this.slots = slots;
    this.#pads = pads;
    this.#runtime = runtime;
    try {
      const session = this.#owned.use(
        runtime.session(options.modelPath, {
          threads: options.threads,
          device,
          config: spinning(options.spinTime),
          hugePages: device.hostMemory,
        }),
      );
      this.#session = session;
      this.#logitsGraphs = device.hostMemory
        ? null
        : this.#owned.use(new LogitsGraphs(runtime, device, shape.vocabSize));
      this.#cache = this.#owned.use(
        device.hostMemory
          ? new HostKvCache(runtime, shape, slots)
          : new DeviceKvCache(runtime, { ...options, pads, type: floatType(options.precision), session }),
      );
      this.#outputs = this.#owned.use(this.#buffers(pads + slots));
    } catch (error) {
      this.#owned[Symbol.dispose]();
      throw error;
    }
  }

  /** Whether the last bits of a row's answers depend on how many rows share its decode steps. */
  get rowsChangeBits(): boolean {
    return this.#steadyRows > 1;
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    callModel(() => this.#cache.loadPrefix(row, prefix));
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    callModel(() => this.#cache.copyRow(from, to, length, start));
  }

  async prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput> {
    if (answers === "all") return this.#forward(row, start, ids, [...ids.keys()], this.#scoreBuffers(ids.length));
    return this.#forward(row, start, ids, answers === "last" ? [ids.length - 1] : [], this.#outputs);
  }

  prefillAll(): Promise<StepOutput> {
    return Promise.reject(new RangeError("GroupQueryAttention takes one prompt per run"));
  }

  async decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput> {
    const rows = ids.length;
    // rows() first copies any pending state into the rows that are about to be read.
    const cache = callModel(() => this.#cache.rows(rows));
    const { inputs, binding } = this.#batch(rows, cache);
    // Pads stay at token 0 and position 0.
    inputs.ids.set(ids, this.#pads);
    inputs.positions.set(positions, this.#pads);
    inputs.lastPositions.set(positions, this.#pads);
    inputs.total[0] = Math.max(...positions) + 1;
    binding.update(StepInputs.copied);
    await this.#run(binding);
    return this.#outputs.output(rows);
  }

  async fold(input: FoldInput, from: number, to: number): Promise<void> {
    const { width } = this.shape;
    if (input.kind === "tokens") await this.prefill(this.slots, from, input.ids.subarray(from, to), "none");
    else
      await this.#forward(
        this.slots,
        from,
        new Int32Array(to - from).fill(SOFT_ID),
        [],
        this.#outputs,
        input.data.subarray(from * width, to * width),
      );
  }

  read(row: number, length: number): Promise<KvTensor> {
    return runModel(() => this.#cache.read(row, length));
  }

  wipe(row: number, from: number, to: number): void {
    callModel(() => this.#cache.wipe(row, from, to));
  }

  wipeBuffers(): void {
    callModel(() => {
      this.#cache.wipeBuffers();
      this.#outputs.wipe();
      this.#scores?.wipe();
    });
    for (const { inputs } of this.#batches.values()) inputs.ids.fill(0);
  }

  graphStats(): null {
    return null;
  }

  /** Prefixes in device memory; null when prefixes live in host memory. */
  bankStats(): PrefixBankStats | null {
    return this.#cache instanceof DeviceKvCache ? this.#cache.bank.stats() : null;
  }

  close(): Promise<void> {
    for (const { binding } of this.#batches.values()) binding[Symbol.dispose]();
    this.#scores?.[Symbol.dispose]();
    this.#owned[Symbol.dispose]();
    return Promise.resolve();
  }

  /** Tests, in the row for folding, how the kernels handle chunked prompts. */
  async #tryChunks(device: Device): Promise<void> {
    const row = this.slots;
    if (device.hostMemory) this.chunkingChangesBits = await doesChunkingChangeBits(this, row);
    else this.longestChunk = await longestRightChunk(this, row);
    this.wipe(row, 0, Math.min(TRIAL_TOKENS, this.shape.positions));
    this.wipeBuffers();
  }

  /**
   * Feeds one row at positions `[start, start + ids.length)`; outputs are for the tokens `answered` (indices into
   * `ids`), if any.
   * @param embeddings `[ids.length, width]`, read where the id is SOFT_ID
   */
  async #forward(
    row: number,
    start: number,
    ids: Int32Array,
    answered: readonly number[],
    buffers: StepBuffers,
    embeddings: Float32Array | null = null,
  ): Promise<StepOutput> {
    const length = ids.length;
    const cache = callModel(() => this.#cache.row(row, start, start + length));
    using inputs = this.#inputs(1, length, answered, embeddings);
    inputs.ids.set(ids);
    inputs.positions.forEach((_, index, positions) => (positions[index] = start + index));
    inputs.lastPositions[0] = start + length - 1;
    inputs.total[0] = start + length;
    const outputs = buffers.tensors(inputs.answered.length);
    try {
      using binding = this.#bind(inputs, cache, outputs);
      await this.#run(binding);
    } finally {
      for (const tensor of Object.values(outputs)) tensor[Symbol.dispose]();
    }
    return buffers.output(answered.length);
  }

  #batch(rows: number, cache: readonly Tensor[]): DecodeBatch {
    const known = this.#batches.get(rows);
    if (known !== undefined) return known;
    const all = this.#pads + rows;
    // Answers of pads come last.
    const answered = Array.from({ length: all }, (_, index) => (index + this.#pads) % all);
    const inputs = this.#owned.use(this.#inputs(all, 1, answered));
    const outputs = this.#outputs.tensors(inputs.answered.length);
    for (const output of Object.values(outputs)) this.#owned.use(output);
    const batch = { inputs, binding: this.#bind(inputs, cache, outputs) };
    this.#batches.set(rows, batch);
    return batch;
  }

  #bind(inputs: StepInputs, cache: readonly Tensor[], outputs: Readonly<Record<string, Tensor>>): Binding {
    const past: Record<string, Tensor> = {};
    const present: Record<string, Tensor> = {};
    cache.forEach((tensor, index) => {
      const name = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      past[`past_${name}`] = present[`present_${name}`] = tensor;
    });
    return this.#session.binding({ ...inputs.tensors, ...past }, { ...outputs, ...present });
  }

  #inputs(
    rows: number,
    length: number,
    answered: readonly number[],
    embeddings: Float32Array | null = null,
  ): StepInputs {
    const onDevice = this.#logitsGraphs !== null;
    const padded =
      !onDevice || answered.length >= LEAST_OUTPUTS
        ? answered
        : new Array<number>(LEAST_OUTPUTS).fill(answered[0] ?? 0);
    const inputs = new StepInputs(
      this.#runtime,
      onDevice,
      { rows, length, answers: padded.length, width: this.shape.width },
      embeddings,
    );
    inputs.answered.set(padded);
    return inputs;
  }

  #scoreBuffers(rows: number): StepBuffers {
    if (this.#scores === null || this.#scores.rows < rows) {
      this.#scores?.wipe();
      this.#scores?.[Symbol.dispose]();
      this.#scores = this.#buffers(rows);
    }
    return this.#scores;
  }

  #buffers(atLeast: number): StepBuffers {
    const { shape } = this;
    const rows = Math.max(atLeast, LEAST_OUTPUTS);
    return new StepBuffers(this.#runtime, {
      rows,
      candidates: candidatesOf(shape),
      vocabSize: shape.vocabSize,
      session: this.#session,
      graphs: this.#logitsGraphs,
    });
  }

  async #run(binding: Binding): Promise<void> {
    try {
      await this.#session.run(binding);
    } catch (error) {
      throw asModelError(error);
    }
  }
}

/** ORT settings for thread spinning. */
function spinning(time: number | undefined): Readonly<Record<string, string>> {
  if (time === undefined) return {};
  return time === 0
    ? { "session.intra_op.allow_spinning": "0" }
    : { "session.intra_op.spin_duration_us": String(time) };
}
