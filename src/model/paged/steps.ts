/**
 * Runs of the model at fixed addresses: one pinned block of inputs goes up, the run is queued, one pinned block of
 * answers comes down. A run has a fixed number of tokens, rows and answers (a bucket); a smaller step is padded with
 * tokens in a row of the cache that belongs to no sequence.
 */
import type { StepOutput } from "../../engine/runner.ts";
import { fromFloat16 } from "../../formats/float16.ts";
import { bytesOf } from "../../runtime/session.ts";
import { ElementType } from "../../runtime/ort-api.ts";
import type { FixedTensor, PinnedMemory, PreparedRun, StreamDevice, StreamModel } from "../../runtime/stream-device.ts";
import type { PagedKvCache } from "./kv-cache.ts";

export interface Bucket {
  readonly tokens: number;
  readonly rows: number;
  /** Tokens whose logits are computed: the last of each row, or all tokens of the first row. */
  readonly outputs: number;
  readonly answered: "rows" | "tokens";
  /** Upper bound of new tokens per row. Kernels are chosen by it and compute wrong numbers beyond it. */
  readonly longest: number;
  /** Tokens with id -1 read soft embeddings, which must be set. */
  readonly soft: boolean;
}

/** New tokens of one row. */
export interface FedRow {
  readonly row: number;
  /** Tokens of the row already in the cache. */
  readonly past: number;
  readonly ids: Int32Array;
}

export interface StepsOptions {
  readonly device: StreamDevice;
  readonly model: StreamModel;
  readonly cache: PagedKvCache;
  readonly candidates: number;
  /** Maxima over all buckets. */
  readonly most: Pick<Bucket, "tokens" | "rows" | "outputs">;
  /** The cache row that padding is fed to. */
  readonly padRow: number;
  readonly count: (direction: "up" | "down", bytes: number) => void;
}

/** Alignment of offsets, as in CUDA's own allocations. */
const ALIGNMENT = 256;
const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** The graph's int32 inputs and the elements a bucket gives each. */
const inputsOf = (
  { tokens, rows, outputs }: Pick<Bucket, "tokens" | "rows" | "outputs">,
  columns: number,
): Record<string, readonly number[]> => ({
  input_ids: [tokens],
  position_ids: [tokens],
  output_rows: [outputs],
  past_lengths: [rows],
  cumulative_lengths: [rows + 1],
  block_table: [rows, columns],
});

export class Steps implements Disposable {
  readonly #options: StepsOptions;
  readonly #in: PinnedMemory;
  readonly #inDevice: bigint;
  readonly #out: PinnedMemory;
  readonly #outDevice: bigint;
  readonly #logits: bigint;
  /** Bytes per row. */
  readonly #logitsBytes: number;
  /** One row's `[vocabSize]`. */
  readonly #logitsRow: PinnedMemory;
  readonly #embeds: PinnedMemory;
  readonly #embedsDevice: bigint;
  readonly #noEmbeds: bigint;
  readonly #runs: Step[] = [];

  /** @throws CudaError when the device runs out of memory */
  constructor(options: StepsOptions) {
    const { device, cache, candidates, most } = options;
    const { shape, columns } = cache.layout;
    this.#options = options;
    const inBytes = placesOf(inputsOf(most, columns)).bytes;
    const outBytes = aligned(8 * most.outputs * candidates) + aligned(4 * most.outputs) + 2 * ALIGNMENT;
    this.#in = device.allocatePinned(inBytes);
    this.#inDevice = device.allocate(inBytes);
    this.#out = device.allocatePinned(outBytes);
    this.#outDevice = device.allocate(outBytes);
    this.#logitsBytes = bytesOf(cache.layout.type, [shape.vocabSize]);
    this.#logits = device.allocate(most.outputs * this.#logitsBytes);
    this.#logitsRow = device.allocatePinned(this.#logitsBytes);
    this.#embeds = device.allocatePinned(4 * most.tokens * shape.width);
    this.#embedsDevice = device.allocate(4 * most.tokens * shape.width);
    this.#noEmbeds = device.allocate(4 * shape.width);
    this.wipe();
  }

  /** Prepares a bucket's run; unused places are padded. */
  prepare(bucket: Bucket): Step {
    const { device, model, cache, candidates, padRow, count } = this.#options;
    const { shape, columns, capacity } = cache.layout;
    const inputs: Record<string, FixedTensor | Int32Array> = {};
    const views: Record<string, Int32Array> = {};
    const places = placesOf(inputsOf(bucket, columns));
    for (const [name, { at, dims }] of Object.entries(places.of)) {
      inputs[name] = { address: this.#inDevice + BigInt(at), shape: dims, type: ElementType.int32 };
      views[name] = new Int32Array(this.#in.buffer, at, bytesOf(ElementType.int32, dims) / 4);
    }
    inputs["bounds"] = Int32Array.of(bucket.longest, capacity);
    inputs["soft_embeds"] = {
      address: bucket.soft ? this.#embedsDevice : this.#noEmbeds,
      shape: [bucket.soft ? bucket.tokens : 1, shape.width],
      type: ElementType.float32,
    };
    const k = bucket.outputs;
    const [idsAt, probabilityAt] = [4 * k * candidates, 8 * k * candidates];
    const outputs: Record<string, FixedTensor> = {
      logits: { address: this.#logits, shape: [k, shape.vocabSize], type: cache.layout.type },
      top_logits: { address: this.#outDevice, shape: [k, candidates], type: ElementType.float32 },
      top_ids: { address: this.#outDevice + BigInt(idsAt), shape: [k, candidates], type: ElementType.int32 },
      top_probability: { address: this.#outDevice + BigInt(probabilityAt), shape: [k, 1], type: ElementType.float32 },
    };
    cache.tensors().forEach((tensor, index) => {
      const name = `${index % 2 === 0 ? "key" : "value"}.${index >> 1}`;
      inputs[`past_${name}`] = outputs[`present_${name}`] = tensor;
    });
    const outBytes = probabilityAt + 4 * k;
    const answers = {
      topLogits: new Float32Array(this.#out.buffer, 0, k * candidates),
      topIds: new Int32Array(this.#out.buffer, idsAt, k * candidates),
      topProbability: new Float32Array(this.#out.buffer, probabilityAt, k),
      logSumExp: new Float32Array(k),
    };
    const step = new Step({
      bucket,
      run: model.prepare(inputs, outputs),
      fill: (rows) => fill(views, bucket, rows, columns, padRow),
      up: () => {
        device.upload(this.#inDevice, this.#in.address, places.bytes);
        count("up", places.bytes);
        if (!bucket.soft) return;
        device.upload(this.#embedsDevice, this.#embeds.address, 4 * bucket.tokens * shape.width);
        count("up", 4 * bucket.tokens * shape.width);
      },
      down: () => {
        device.download(this.#out.address, this.#outDevice, outBytes);
        count("down", outBytes);
      },
      idle: () => device.idle(),
      forget: () => answers.logSumExp.fill(0),
      bytes: () => new Uint8Array(this.#out.buffer, 0, outBytes).slice(),
      output: (rows) => {
        const { topLogits, topIds, topProbability, logSumExp } = answers;
        for (let row = 0; row < rows; row++)
          logSumExp[row] = topLogits[row * candidates]! - Math.log(topProbability[row]!);
        return { rows, candidates, topLogits, topIds, logSumExp, logits: (row) => this.#row(row) };
      },
    });
    this.#runs.push(step);
    return step;
  }

  /** Sets the soft embeddings `[length, width]` of the next soft run's first tokens. */
  setEmbeds(data: Float32Array): void {
    new Float32Array(this.#embeds.buffer).set(data);
  }

  /** Zeroes inputs and answers, on host and device. */
  wipe(): void {
    const { device, cache, most } = this.#options;
    const { shape } = cache.layout;
    for (const { buffer } of [this.#in, this.#out, this.#logitsRow, this.#embeds]) new Uint8Array(buffer).fill(0);
    for (const step of this.#runs) step.forget();
    const zero = (address: bigint, bytes: number): void => device.zero({ address, pitch: bytes }, bytes, 1);
    zero(this.#inDevice, this.#in.buffer.byteLength);
    zero(this.#outDevice, this.#out.buffer.byteLength);
    zero(this.#logits, most.outputs * this.#logitsBytes);
    zero(this.#embedsDevice, this.#embeds.buffer.byteLength);
    zero(this.#noEmbeds, 4 * shape.width);
  }

  [Symbol.dispose](): void {
    for (const step of this.#runs.splice(0)) step[Symbol.dispose]();
  }

  #row(row: number): Float32Array {
    const { device, cache, count } = this.#options;
    const [bytes, { buffer, address }] = [this.#logitsBytes, this.#logitsRow];
    device.download(address, this.#logits + BigInt(row) * BigInt(bytes), bytes);
    device.wait();
    count("down", bytes);
    return cache.layout.type === ElementType.float16
      ? fromFloat16(new Uint16Array(buffer))
      : new Float32Array(buffer).slice();
  }
}

interface StepParts {
  readonly bucket: Bucket;
  readonly run: PreparedRun;
  readonly fill: (rows: readonly FedRow[]) => void;
  readonly up: () => void;
  readonly down: () => void;
  readonly idle: () => Promise<void>;
  readonly forget: () => void;
  readonly bytes: () => Uint8Array;
  readonly output: (rows: number) => StepOutput;
}

/** One bucket's run. */
export class Step implements Disposable {
  readonly bucket: Bucket;
  readonly #parts: StepParts;
  #captured = false;

  constructor(parts: StepParts) {
    this.bucket = parts.bucket;
    this.#parts = parts;
  }

  /** True if runs replay a captured graph. */
  get captured(): boolean {
    return this.#captured;
  }

  /**
   * Captures the run and compares its answers with kernel-by-kernel runs on each of these inputs: a graph freezes
   * addresses, sizes and whatever a kernel has read on the host. Returns null, or why the step stays kernel by kernel.
   */
  async capture(trials: readonly (readonly FedRow[])[]): Promise<string | null> {
    const expected: Uint8Array[] = [];
    for (const rows of trials) {
      await this.#answer(rows);
      expected.push(this.#parts.bytes());
    }
    try {
      this.#parts.fill(trials[0]!);
      this.#parts.up();
      this.#parts.run.capture();
    } catch (error) {
      return (error as Error).message;
    }
    this.#captured = true;
    for (const [index, rows] of trials.entries()) {
      await this.#answer(rows);
      if (Buffer.compare(this.#parts.bytes(), expected[index]!) === 0) continue;
      this.#captured = false;
      return "the captured graph's answers differ from a kernel-by-kernel run";
    }
    return null;
  }

  /** Runs the bucket on rows of different sequences. */
  async feed(rows: readonly FedRow[]): Promise<StepOutput> {
    await this.#answer(rows);
    return this.#parts.output(this.bucket.answered === "tokens" ? rows[0]!.ids.length : rows.length);
  }

  /** Drops what was computed from the last answers. */
  forget(): void {
    this.#parts.forget();
  }

  [Symbol.dispose](): void {
    this.#parts.run[Symbol.dispose]();
  }

  async #answer(rows: readonly FedRow[]): Promise<void> {
    const { fill, up, down, run, idle } = this.#parts;
    fill(rows);
    up();
    if (this.#captured) run.replay();
    else run.run();
    down();
    await idle();
  }
}

/** Byte offset of each tensor in a block. */
function placesOf(inputs: Record<string, readonly number[]>): {
  of: Record<string, { at: number; dims: readonly number[] }>;
  bytes: number;
} {
  let bytes = 0;
  const of: Record<string, { at: number; dims: readonly number[] }> = {};
  for (const [name, dims] of Object.entries(inputs)) {
    of[name] = { at: bytes, dims };
    bytes += aligned(bytesOf(ElementType.int32, dims));
  }
  return { of, bytes };
}

/**
 * Writes a step's inputs: rows first, then padding. In a run of single tokens each padding row has one token; else one
 * padding row has all that are left. Unused answers point at the last token.
 * @throws RangeError when the rows do not fit the bucket
 */
function fill(
  views: Readonly<Record<string, Int32Array>>,
  { tokens, rows: slots, outputs, longest, answered: by }: Bucket,
  rows: readonly FedRow[],
  columns: number,
  padRow: number,
): void {
  const {
    input_ids: ids,
    position_ids: positions,
    output_rows: answered,
    past_lengths: past,
    cumulative_lengths: cumulative,
    block_table: table,
  } = views as Record<
    "input_ids" | "position_ids" | "output_rows" | "past_lengths" | "cumulative_lengths" | "block_table",
    Int32Array
  >;
  let at = 0;
  let index = 0;
  const begin = (row: number, length: number): void => {
    past[index] = length;
    cumulative[index] = at;
    for (let column = 0; column < columns; column++) table[index * columns + column] = row * columns + column;
    index++;
  };
  for (const fed of rows) {
    const length = fed.ids.length;
    if (index >= (by === "rows" ? Math.min(slots, outputs) : slots) || at + length > tokens || length > longest)
      throw new RangeError(`${rows.length} rows do not fit into a run of ${tokens} tokens in ${slots} rows`);
    begin(fed.row, fed.past);
    ids.set(fed.ids, at);
    for (let token = 0; token < length; token++) positions[at + token] = fed.past + token;
    at += length;
  }
  ids.fill(0, at);
  positions.fill(0, at);
  const used = at;
  while (index < slots) {
    begin(padRow, 0);
    at = longest === 1 ? at + 1 : tokens;
  }
  cumulative[slots] = tokens;
  if (by === "tokens") for (let output = 0; output < outputs; output++) answered[output] = Math.min(output, used - 1);
  else
    for (let output = 0; output < outputs; output++)
      answered[output] = (output < rows.length ? cumulative[output + 1]! : used) - 1;
}
