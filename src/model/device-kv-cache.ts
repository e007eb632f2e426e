/** The KV cache in device memory, filled and moved by small graphs and read back only for folding. */
import { kvElements, type KvTensor, type ModelShape } from "../kv.ts";
import type { Device } from "../runtime/device.ts";
import { Disposables } from "../runtime/disposables.ts";
import { ElementType } from "../runtime/ort-api.ts";
import type { DeviceTensor, Runtime, Session, Tensor } from "../runtime/session.ts";
import { copyGraph, loadGraph, readGraph, storeGraph } from "./cache-graphs.ts";
import type { FloatType } from "./graph-weights.ts";
import { checkPrefix, type KvCache } from "./kv-cache.ts";
import { PrefixBank } from "./prefix-bank.ts";

export interface DeviceKvCacheOptions {
  readonly shape: ModelShape;
  readonly slots: number;
  /** Rows before those of sequences, of which `rows` has all. */
  readonly pads: number;
  readonly device: Device;
  readonly type: FloatType;
  /** Bytes for hot prefixes; rounded up to hold at least one full row. */
  readonly bankBytes: number;
  /** The model's session: its allocator provides the memory. */
  readonly session: Session;
}

/** The cache's tensors, each viewed as a list of vectors `[n, headDim]`, and the index of a row's first vector. */
interface Vectors {
  readonly tensors: readonly DeviceTensor[];
  readonly first: number;
}

/**
 * Device memory is addressed by handle, so a tensor always begins where an allocation begins. A row is therefore fed in
 * a scratch tensor and copied to its place before the first step that reads it there. The engine feeds one row at a
 * time, so one scratch is enough; folding has its own.
 */
export class DeviceKvCache implements KvCache {
  readonly bank: PrefixBank;
  readonly #runtime: Runtime;
  readonly #shape: ModelShape;
  readonly #slots: number;
  readonly #pads: number;
  /** `[pads + slots, heads, positions, headDim]` */
  readonly #cache: readonly DeviceTensor[];
  readonly #scratch: readonly DeviceTensor[];
  readonly #foldScratch: readonly DeviceTensor[];
  readonly #copy: Session;
  readonly #load: Session;
  readonly #read: Session;
  readonly #views = new Map<string, readonly DeviceTensor[]>();
  readonly #owned = new Disposables();
  /** The row whose latest state is in the scratch, and its length in positions. */
  #fed: { readonly row: number; length: number } | null = null;
  /** Positions of the scratch that have been written to. */
  #scratchUsed = 0;

  /** @throws OrtError when the device runs out of memory */
  constructor(runtime: Runtime, options: DeviceKvCacheOptions) {
    const { shape, slots, pads, device, type, session } = options;
    const { heads, headDim, positions, layers } = shape;
    this.#runtime = runtime;
    this.#shape = shape;
    this.#slots = slots;
    this.#pads = pads;
    const open = (graph: Uint8Array): Session => this.#owned.use(runtime.session(graph, { threads: 1, device }));
    this.#copy = open(copyGraph(type, shape));
    this.#load = open(loadGraph(type, shape));
    this.#read = open(readGraph(type, shape));
    const store = open(storeGraph(type, shape));
    const allocate = (dims: readonly number[]): DeviceTensor => this.#owned.use(session.allocate(type, dims));
    const rows = (count: number): DeviceTensor[] =>
      Array.from({ length: 2 * layers }, () => allocate([count, heads, positions, headDim]));
    this.#cache = rows(pads + slots);
    this.#scratch = rows(1);
    this.#foldScratch = rows(1);
    const vectorsPerPage = 2 * layers * heads;
    const pageBytes = vectorsPerPage * headDim * (type === ElementType.float32 ? 4 : 2);
    const pages = Math.max(positions, Math.floor(options.bankBytes / pageBytes)) + 1;
    this.bank = new PrefixBank(runtime, shape, allocate([pages * vectorsPerPage, headDim]), store);
    // Fresh device memory holds whatever was there before.
    for (let row = -pads; row <= slots; row++) this.wipe(row, 0, positions);
    this.#scratchUsed = positions;
    this.wipeBuffers();
  }

  rows(count: number): readonly Tensor[] {
    if (this.#fed !== null && this.#fed.row < count) this.#settle();
    const { heads, positions, headDim } = this.#shape;
    return this.#kept(`first ${count}`, () =>
      this.#cache.map((tensor) => tensor.view([this.#pads + count, heads, positions, headDim])),
    );
  }

  row(row: number, start: number, end: number): readonly Tensor[] {
    if (row === this.#slots) return this.#foldScratch;
    this.#feed(row, start);
    this.#grow(end);
    return this.#scratch;
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    checkPrefix(this.#shape, prefix);
    const pages = this.bank.hold(prefix);
    this.#feed(row, 0);
    // The folding row has its own tensor.
    if (row !== this.#slots) this.#grow(prefix.length);
    this.#fill(this.#current(row), 0, pages);
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    if (this.#fed?.row === to) this.#settle();
    this.#move(this.#current(from), this.#settled(to), start, length);
  }

  wipe(row: number, from: number, to: number): void {
    if (to <= from) return;
    const zeros = new Int32Array(to - from);
    this.#fill(this.#settled(row), from, zeros);
    if (this.#fed?.row === row) this.#fill(this.#current(row), from, zeros);
  }

  wipeBuffers(): void {
    this.bank.clear();
    for (let row = -this.#pads; row < 0; row++) this.wipe(row, 0, 1);
    const live = this.#fed?.length ?? 0;
    if (this.#scratchUsed > live)
      this.#fill(
        { tensors: this.#flat("scratch", this.#scratch), first: 0 },
        live,
        new Int32Array(this.#scratchUsed - live),
      );
    this.#scratchUsed = live;
  }

  async read(row: number, length: number): Promise<KvTensor> {
    const { heads, headDim } = this.#shape;
    const { tensors, first } = this.#current(row);
    const data = new Float32Array(kvElements(this.#shape, length));
    const run = heads * length * headDim;
    using fromAt = this.#runtime.tensor(Int32Array.from(this.#vectorsAt(first, 0, length)), [heads * length]);
    const outputs = tensors.map((_, index) =>
      this.#runtime.tensor(data.subarray(index * run, (index + 1) * run), [heads * length, headDim]),
    );
    try {
      using binding = this.#read.binding({ from_at: fromAt, ...named("from", tensors) }, named("read", outputs));
      await this.#read.run(binding);
    } finally {
      for (const output of outputs) output[Symbol.dispose]();
    }
    return { length, data };
  }

  [Symbol.dispose](): void {
    this.#owned[Symbol.dispose]();
  }

  /** Assigns the scratch to a row, which starts over at position 0. */
  #feed(row: number, start: number): void {
    if (row === this.#slots || this.#fed?.row === row) return;
    this.#settle();
    this.#fed = { row, length: 0 };
    if (start === 0) return;
    this.#grow(start);
    this.#move(this.#settled(row), this.#current(row), 0, start);
  }

  #grow(length: number): void {
    if (this.#fed === null) return;
    this.#fed.length = Math.max(this.#fed.length, length);
    this.#scratchUsed = Math.max(this.#scratchUsed, length);
  }

  /** Copies the fed row from the scratch to its place. */
  #settle(): void {
    const fed = this.#fed;
    if (fed === null) return;
    this.#fed = null;
    if (fed.length > 0)
      this.#move({ tensors: this.#flat("scratch", this.#scratch), first: 0 }, this.#settled(fed.row), 0, fed.length);
  }

  /** Where a row's latest state is: in the scratch, or in its place. */
  #current(row: number): Vectors {
    return this.#fed?.row === row ? { tensors: this.#flat("scratch", this.#scratch), first: 0 } : this.#settled(row);
  }

  /** A row's place in the cache; pads are the rows below 0. */
  #settled(row: number): Vectors {
    if (row === this.#slots) return { tensors: this.#flat("fold", this.#foldScratch), first: 0 };
    return {
      tensors: this.#flat("cache", this.#cache),
      first: (this.#pads + row) * this.#shape.heads * this.#shape.positions,
    };
  }

  /** Indices of a row's vectors at positions `[from, to)`, head by head. */
  #vectorsAt(first: number, from: number, to: number): number[] {
    const { heads, positions } = this.#shape;
    return Array.from({ length: heads * (to - from) }, (_, index) => {
      const head = Math.floor(index / (to - from));
      return first + head * positions + from + (index % (to - from));
    });
  }

  /** Copies positions `[start, end)`. */
  #move(from: Vectors, to: Vectors, start: number, end: number): void {
    const count = this.#shape.heads * (end - start);
    if (count === 0) return;
    using fromAt = this.#runtime.tensor(Int32Array.from(this.#vectorsAt(from.first, start, end)), [count]);
    using toAt = this.#runtime.tensor(BigInt64Array.from(this.#vectorsAt(to.first, start, end), BigInt), [count, 1]);
    using binding = this.#copy.binding(
      { from_at: fromAt, to_at: toAt, ...named("from", from.tensors), ...named("to", to.tensors) },
      named("moved", to.tensors),
    );
    this.#copy.runNow(binding);
  }

  /** Copies pages of the bank into positions from `start`, one page per position. */
  #fill(to: Vectors, start: number, pages: Int32Array): void {
    const { heads } = this.#shape;
    const count = heads * pages.length;
    const fromAt = Int32Array.from(
      { length: count },
      (_, index) => pages[index % pages.length]! * this.bank.vectorsPerPage + Math.floor(index / pages.length),
    );
    using fromTensor = this.#runtime.tensor(fromAt, [count]);
    using toAt = this.#runtime.tensor(
      BigInt64Array.from(this.#vectorsAt(to.first, start, start + pages.length), BigInt),
      [count, 1],
    );
    using binding = this.#load.binding(
      { from_at: fromTensor, to_at: toAt, bank: this.bank.tensor, ...named("to", to.tensors) },
      named("moved", to.tensors),
    );
    this.#load.runNow(binding);
  }

  #flat(name: string, tensors: readonly DeviceTensor[]): readonly DeviceTensor[] {
    return this.#kept(`flat ${name}`, () =>
      tensors.map((tensor) =>
        tensor.view([tensor.shape[0]! * this.#shape.heads * this.#shape.positions, this.#shape.headDim]),
      ),
    );
  }

  #kept(name: string, make: () => readonly DeviceTensor[]): readonly DeviceTensor[] {
    let tensors = this.#views.get(name);
    if (tensors === undefined) {
      tensors = make().map((tensor) => this.#owned.use(tensor));
      this.#views.set(name, tensors);
    }
    return tensors;
  }
}

function named<T extends Tensor>(name: string, tensors: readonly T[]): Record<string, T> {
  return Object.fromEntries(tensors.map((tensor, index) => [`${name}.${index}`, tensor]));
}
