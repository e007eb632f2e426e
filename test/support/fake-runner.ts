/**
 * A ModelRunner without a model: each row keeps what was actually written to it, position by position, and the next
 * token is a hash of all of that. A wrong row, a stale row, another's prefix or an extra token gives other tokens than
 * `oracle`.
 */
import { BeamSearch, type BeamResult } from "../../src/engine/beams/search.ts";
import type { Answers, ModelRunner, PromptChunk, StepOutput } from "../../src/engine/runner.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import { Sampler } from "../../src/engine/sampling/sampler.ts";
import { foldLength, kvElements, type FoldInput, type KvTensor, type ModelShape } from "../../src/kv.ts";

export const FAKE_SHAPE: ModelShape = { layers: 2, heads: 2, headDim: 2, width: 4, positions: 256, vocabSize: 97 };
const CANDIDATES = 16;
/** A row that holds this token has NaN logits. */
export const NAN_TOKEN = 96;

interface OutputBuffers {
  readonly topLogits: Float32Array;
  readonly topIds: Int32Array;
  readonly logSumExp: Float32Array;
  readonly logits: Float32Array;
}

type Method = "loadPrefix" | "copyRow" | `prefill ${Answers}` | "prefillAll" | "decode" | "fold" | "read";

export class FakeRunner implements ModelRunner {
  readonly shape = FAKE_SHAPE;
  readonly slots: number;
  readonly longestChunk: number = Infinity;
  readonly promptsAtOnce: number = 1;
  readonly chunkingChangesBits: boolean = false;
  /** Contract violations, in order; must stay empty. Each is also thrown. */
  readonly misuses: string[] = [];
  readonly calls: Record<Method, number> = {
    loadPrefix: 0,
    copyRow: 0,
    "prefill none": 0,
    "prefill last": 0,
    "prefill all": 0,
    prefillAll: 0,
    decode: 0,
    fold: 0,
    read: 0,
  };
  /** Rows of the largest decode batch. */
  widest = 0;
  /** Rows with at least this many positions have NaN logits. */
  nanFrom = Infinity;
  /** Tokens decoded again at the same position. */
  repeats = 0;
  foldingRowWipes = 0;
  bufferWipes = 0;
  /** Called in the middle of each run, so that tests can interfere. */
  during: ((method: Method) => void) | null = null;
  readonly #delay: () => Promise<void>;
  readonly #failures: { readonly method: Method; readonly call: number; readonly error: Error }[] = [];
  readonly #rows: Uint32Array[];
  /** Positions in use per row, as counted by the runner. */
  readonly #stored: Int32Array;
  /** Rows whose last position came from a decode: it may be requested again, for a postponed choice. */
  readonly #decoded = new Set<number>();
  readonly #output: OutputBuffers;
  #running: Method | null = null;
  /** What has been fed to the folding row. */
  #folding: { readonly input: FoldInput | null; fed: number } = { input: null, fed: 0 };

  constructor(slots: number, delay: () => Promise<void> = () => new Promise(setImmediate)) {
    this.slots = slots;
    this.#delay = delay;
    // Leftovers of earlier tenants are not zero.
    this.#rows = Array.from({ length: slots + 1 }, (_, row) =>
      new Uint32Array(FAKE_SHAPE.positions).fill(hash(row, 0xdead)),
    );
    this.#stored = new Int32Array(slots + 1).fill(-1);
    this.#output = outputBuffers(Math.max(slots, FAKE_SHAPE.positions));
  }

  /** Makes a method's `nth` call from now fail; 1 is the next one. */
  failOn(method: Method, nth: number, error: Error = new Error(`injected failure of ${method}`)): void {
    this.#failures.push({ method, call: this.calls[method] + nth, error });
  }

  loadPrefix(row: number, prefix: KvTensor): void {
    this.#enter("loadPrefix");
    this.#checkRow(row, this.slots + 1);
    this.#rows[row]!.set(prefixCells(prefix));
    this.#stored[row] = prefix.length;
    this.#decoded.delete(row);
  }

  copyRow(from: number, to: number, length: number, start: number): void {
    this.#enter("copyRow");
    this.#checkRow(from);
    this.#checkRow(to);
    if (from === to) this.#misuse(`copyRow of row ${from} to itself`);
    if (!this.#holds(from, length))
      this.#misuse(`copyRow of ${length} positions of row ${from}, which holds ${this.#stored[from]}`);
    for (let position = 0; position < start; position++) {
      if (this.#rows[to]![position] !== this.#rows[from]![position])
        this.#misuse(`copyRow from position ${start} between rows that differ at ${position}`);
    }
    this.#rows[to]!.set(this.#rows[from]!.subarray(start, length), start);
    this.#stored[to] = length;
    this.#decoded.delete(to);
  }

  prefill(row: number, start: number, ids: Int32Array, answers: Answers): Promise<StepOutput> {
    return this.#run(`prefill ${answers}`, () => {
      this.#feed(row, start, ids);
      const ends = Array.from(ids, (_, index) => start + index + 1);
      return (answers === "all" ? ends : ends.slice(answers === "none" ? ends.length : -1)).map((end) =>
        this.#cellsOf(row, end),
      );
    });
  }

  prefillAll(chunks: readonly PromptChunk[]): Promise<StepOutput> {
    return this.#run("prefillAll", () => {
      const tokens = chunks.reduce((sum, { ids }) => sum + ids.length, 0);
      if (chunks.length > this.promptsAtOnce || tokens > this.longestChunk)
        this.#misuse(`${chunks.length} prompts of ${tokens} tokens in one run`);
      if (new Set(chunks.map(({ row }) => row)).size < chunks.length) this.#misuse("two prompts for one row");
      for (const { row, start, ids } of chunks) this.#feed(row, start, ids);
      return chunks.map(({ row, start, ids }) => this.#cellsOf(row, start + ids.length));
    });
  }

  decode(ids: Int32Array, positions: Int32Array): Promise<StepOutput> {
    return this.#run("decode", () => {
      this.widest = Math.max(this.widest, ids.length);
      if (ids.length === 0 || ids.length !== positions.length)
        this.#misuse(`decode of ${ids.length} ids at ${positions.length} positions`);
      return Array.from(ids, (id, row) => {
        this.#checkRow(row);
        if (!this.#holds(row, positions[row]!))
          this.#misuse(`decode at ${positions[row]} of row ${row}, which holds ${this.#stored[row]}`);
        if (this.#stored[row]! > positions[row]!) {
          this.repeats++;
          if (this.#rows[row]![positions[row]!] !== tokenCell(positions[row]!, id))
            this.#misuse(`another token at ${positions[row]} of row ${row}`);
        }
        this.#write(row, positions[row]!, id);
        this.#decoded.add(row);
        return this.#cellsOf(row, positions[row]! + 1);
      });
    });
  }

  async fold(input: FoldInput, from: number, to: number): Promise<void> {
    await this.#run("fold", () => {
      if (from === 0) this.#folding = { input, fed: 0 };
      if (this.#folding.input !== input || this.#folding.fed !== from)
        this.#misuse(
          `fold from ${from} of a prompt of which ${this.#folding.input === input ? this.#folding.fed : "nothing"} has been fed`,
        );
      if (to <= from || to > foldLength(input))
        this.#misuse(`fold of ${to - from} positions up to ${to} of ${foldLength(input)}`);
      this.#folding.fed = to;
      return [];
    });
  }

  async read(row: number, length: number): Promise<KvTensor> {
    const { input, fed } = this.#folding;
    if (row !== this.slots || input === null || fed !== length)
      this.#misuse(`read of ${length} positions of row ${row}, while ${fed} are folded`);
    await this.#run("read", () => []);
    return foldOf(input);
  }

  wipe(row: number, from: number, to: number): void {
    if (this.#running !== null) this.#misuse(`wipe during ${this.#running}`);
    if (row === this.slots) return void (this.foldingRowWipes += 1);
    this.#checkRow(row);
    this.#rows[row]!.fill(0, from, to);
  }

  wipeBuffers(): void {
    if (this.#running !== null) this.#misuse(`wipeBuffers during ${this.#running}`);
    for (const buffer of Object.values(this.#output)) buffer.fill(0);
    this.bufferWipes++;
  }

  /** A row's content, at all positions. */
  cells(row: number): Uint32Array {
    return this.#rows[row]!.slice();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  /** `write` returns the cells that each output row is computed from. */
  async #run(method: Method, write: () => Uint32Array[]): Promise<StepOutput> {
    this.#enter(method);
    this.#running = method;
    try {
      const outputs = write();
      // Output is valid only until the next run: overwrite the previous one.
      this.#output.logSumExp.fill(NaN);
      this.#output.topIds.fill(-1);
      await this.#delay();
      this.during?.(method);
      outputs.forEach((cells, index) => fill(this.#output, index, cells, this.nanFrom));
      return asOutput(this.#output, outputs.length);
    } finally {
      this.#running = null;
    }
  }

  #feed(row: number, start: number, ids: Int32Array): void {
    this.#checkRow(row, this.slots + 1);
    if (ids.length === 0) this.#misuse("prefill of nothing");
    if (start !== 0 && this.#stored[row] !== start)
      this.#misuse(`prefill at ${start} of row ${row}, which holds ${this.#stored[row]}`);
    ids.forEach((id, index) => this.#write(row, start + index, id));
  }

  #holds(row: number, length: number): boolean {
    return this.#stored[row] === length || (this.#stored[row] === length + 1 && this.#decoded.has(row));
  }

  #cellsOf(row: number, length: number): Uint32Array {
    return this.#rows[row]!.subarray(0, length);
  }

  #write(row: number, position: number, id: number): void {
    if (position >= FAKE_SHAPE.positions) this.#misuse(`row ${row} is full`);
    if (id < 0 || id >= FAKE_SHAPE.vocabSize) this.#misuse(`token ${id} is not in the vocabulary`);
    this.#rows[row]![position] = tokenCell(position, id);
    this.#stored[row] = position + 1;
    this.#decoded.delete(row);
  }

  #enter(method: Method): void {
    this.calls[method]++;
    if (this.#running !== null) this.#misuse(`${method} during ${this.#running}`);
    const failure = this.#failures.find((one) => one.method === method && one.call === this.calls[method]);
    if (failure !== undefined) throw failure.error;
  }

  #checkRow(row: number, rows = this.slots): void {
    if (!Number.isInteger(row) || row < 0 || row >= rows) this.#misuse(`row ${row} of ${this.slots}`);
  }

  #misuse(what: string): never {
    this.misuses.push(what);
    throw new Error(`misuse: ${what}`);
  }
}

/** The tokens of one choice when run alone, computed without the engine and without rows. */
export function oracle(request: EngineRequest, choice: number): number[] {
  const { promptIds, sampling, seed, eosIds, maxNewTokens, topLogprobs } = request;
  const cells = promptCells(request);
  const sampler = new Sampler(sampling, seed, choice, promptIds, eosIds);
  const buffers = outputBuffers(1);
  const ids: number[] = [];
  while (ids.length < maxNewTokens) {
    fill(buffers, 0, Uint32Array.from(cells));
    const { id } = sampler.next(asOutput(buffers, 1), 0, topLogprobs);
    ids.push(id);
    if (eosIds.includes(id)) break;
    cells.push(tokenCell(cells.length, id));
  }
  return ids;
}

/** The same for a beam search: every beam has its own cells. */
export function beamOracle(request: EngineRequest): BeamResult[] {
  const search = new BeamSearch(request, request.beams!);
  let beams = [promptCells(request)];
  while (!search.done) {
    const buffers = outputBuffers(beams.length);
    for (const [row, cells] of beams.entries()) fill(buffers, row, Uint32Array.from(cells));
    const { parents, ids } = search.step(asOutput(buffers, beams.length), [...beams.keys()]);
    beams = parents.map((parent, beam) => [...beams[parent]!, tokenCell(beams[parent]!.length, ids[beam]!)]);
  }
  return search.results(request.n);
}

function promptCells({ prefix, promptIds }: EngineRequest): number[] {
  const start = prefix?.length ?? 0;
  return [
    ...(prefix === null ? [] : prefixCells(prefix)),
    ...Array.from(promptIds, (id, index) => tokenCell(start + index, id)),
  ];
}

/** A distinct prefix for each seed. */
export function fakePrefix(seed: number, length: number): KvTensor {
  return {
    length,
    data: Float32Array.from({ length: kvElements(FAKE_SHAPE, length) }, (_, index) => hash(seed, index) / 2 ** 32),
  };
}

/** The result of FakeRunner.fold. */
export function foldOf(input: FoldInput): KvTensor {
  let seed = 7;
  for (const value of input.kind === "tokens" ? input.ids : input.data) seed = hash(seed, Math.round(value * 1000));
  return fakePrefix(seed, foldLength(input));
}

/** One number per position, from all its keys and values in all layers and heads. */
function prefixCells({ length, data }: KvTensor): Uint32Array {
  const { headDim } = FAKE_SHAPE;
  const bits = new Uint32Array(data.buffer, data.byteOffset, data.length);
  const cells = new Uint32Array(length).fill(1);
  for (let at = 0; at < bits.length; at++) {
    const position = Math.floor(at / headDim) % length;
    cells[position] = hash(cells[position]!, bits[at]!);
  }
  return cells;
}

function tokenCell(position: number, id: number): number {
  return id === NAN_TOKEN ? NAN_CELL : hash(position, id + 1);
}
const NAN_CELL = 0;

/** Candidates and logits of a row that holds `cells`: the vocabulary in an order that starts at a hash of the cells. */
function fill(
  { topLogits, topIds, logSumExp, logits }: OutputBuffers,
  row: number,
  cells: Uint32Array,
  nanFrom = Infinity,
): void {
  const { vocabSize } = FAKE_SHAPE;
  let state = 3;
  for (const cell of cells) state = hash(state, cell);
  const nan = cells.length >= nanFrom || cells.includes(NAN_CELL);
  // NAN_TOKEN itself is never generated: the order runs over the others.
  const order = vocabSize - 1;
  let sum = 0;
  for (let rank = 0; rank < vocabSize; rank++) {
    const id = rank === order ? NAN_TOKEN : ((state % order) + rank * 5) % order;
    const logit = nan ? NaN : Math.fround(4 - rank * 0.125);
    logits[row * vocabSize + id] = logit;
    sum += Math.exp(logit);
    if (rank >= CANDIDATES) continue;
    topLogits[row * CANDIDATES + rank] = logit;
    topIds[row * CANDIDATES + rank] = id;
  }
  logSumExp[row] = Math.log(sum);
}

function outputBuffers(rows: number): OutputBuffers {
  return {
    topLogits: new Float32Array(rows * CANDIDATES),
    topIds: new Int32Array(rows * CANDIDATES),
    logSumExp: new Float32Array(rows),
    logits: new Float32Array(rows * FAKE_SHAPE.vocabSize),
  };
}

function asOutput(buffers: OutputBuffers, rows: number): StepOutput {
  const { topLogits, topIds, logSumExp, logits } = buffers;
  const { vocabSize } = FAKE_SHAPE;
  return {
    rows,
    candidates: CANDIDATES,
    topLogits,
    topIds,
    logSumExp,
    logits: (row) => logits.subarray(row * vocabSize, (row + 1) * vocabSize),
  };
}

/** Mixes two 32-bit numbers (murmur3's finaliser). */
function hash(a: number, b: number): number {
  let h = Math.imul(a ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(b + 0x7f4a7c15, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return ((h ^ (h >>> 16)) | 1) >>> 0;
}
