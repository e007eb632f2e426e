/**
 * A device with a stream, built on host memory and the CPU's kernels: a test double of CUDA. Its model attends over
 * pages by gathering each row's pages, running the graph over slots on that row, and scattering the new keys and
 * values. So any read or write at a wrong address shows in the numbers, which are the CPU's to the bit. Precision fp32.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { answerColumns } from "../../src/model/gpt2-graph.ts";
import { StepInputs } from "../../src/model/step-inputs.ts";
import { CPU } from "../../src/runtime/device.ts";
import { bytesOf, type HostTensor, type Runtime, type Session } from "../../src/runtime/session.ts";
import type {
  FixedTensor,
  PinnedMemory,
  PreparedRun,
  StreamDevice,
  StreamModel,
  Strips,
} from "../../src/runtime/stream-device.ts";
import { TakenModel } from "./taken-model.ts";

interface Block {
  readonly start: bigint;
  readonly bytes: Uint8Array;
}

export class EmulatedDevice implements StreamDevice {
  /** Blocks are separated by unallocated gaps, so overruns are errors. */
  #next = 1n << 20n;
  readonly #blocks: Block[] = [];
  readonly #queued: (() => void)[] = [];
  /** Commands the device received, in order. */
  readonly log: string[] = [];

  allocate(bytes: number): bigint {
    const start = this.#next;
    this.#next += BigInt(Math.ceil(bytes / 256) * 256 + 4096);
    // As on a device, memory starts with arbitrary content.
    this.#blocks.push({ start, bytes: new Uint8Array(bytes).fill(0x5a) });
    return start;
  }

  allocatePinned(bytes: number): PinnedMemory {
    const address = this.allocate(bytes);
    const { buffer } = this.at(address, bytes).fill(0);
    return { address, buffer: buffer as ArrayBuffer };
  }

  /** @throws RangeError if the range is not within a block */
  at(address: bigint, bytes: number): Uint8Array {
    const block = this.#blocks.find(
      ({ start, bytes: all }) => address >= start && address + BigInt(bytes) <= start + BigInt(all.length),
    );
    if (block === undefined) throw new RangeError(`${bytes} bytes at ${address} are in no block`);
    const offset = Number(address - block.start);
    return block.bytes.subarray(offset, offset + bytes);
  }

  upload(to: bigint, from: bigint, bytes: number): void {
    this.queue("upload", () => this.at(to, bytes).set(this.at(from, bytes)));
  }

  download(to: bigint, from: bigint, bytes: number): void {
    this.queue("download", () => this.at(to, bytes).set(this.at(from, bytes)));
  }

  copy(to: Strips, from: Strips, width: number, count: number): void {
    this.queue("copy", () => {
      for (let strip = 0; strip < count; strip++)
        this.at(addressOf(to, strip), width).set(this.at(addressOf(from, strip), width));
    });
  }

  downloadStrips(to: Strips, from: Strips, width: number, count: number): void {
    this.copy(to, from, width, count);
  }

  zero(at: Strips, width: number, count: number): void {
    this.queue("zero", () => {
      for (let strip = 0; strip < count; strip++) this.at(addressOf(at, strip), width).fill(0);
    });
  }

  /** Executed as late as possible: when something waits. So work sees whatever the caller changes until then. */
  queue(what: string, work: () => void): void {
    this.log.push(what);
    this.#queued.push(work);
  }

  async idle(): Promise<void> {
    await sleep(1);
    this.wait();
  }

  wait(): void {
    for (const work of this.#queued.splice(0)) work();
  }

  load(runtime: Runtime, model: string | Uint8Array): StreamModel {
    return typeof model === "string"
      ? new EmulatedModel(this, runtime, join(dirname(model), "device.onnx"))
      : new TakenModel(this, runtime, model, CPU);
  }

  /** Over all memory ever allocated. */
  nonZeroBytes(): number {
    return this.#blocks.reduce(
      (sum, { bytes }) => sum + bytes.reduce((count, byte) => count + (byte === 0 ? 0 : 1), 0),
      0,
    );
  }

  [Symbol.dispose](): void {
    this.#blocks.length = 0;
  }
}

class EmulatedModel implements StreamModel {
  readonly #device: EmulatedDevice;
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #positions: number;

  constructor(device: EmulatedDevice, runtime: Runtime, path: string) {
    this.#device = device;
    this.#runtime = runtime;
    this.#positions = slotPositions(readFileSync(path));
    this.#session = runtime.session(path, { threads: 2, device: CPU });
  }

  prepare(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): PreparedRun {
    const run = (how: string): void => {
      this.#device.queue(how, () =>
        new EmulatedRun(this.#device, this.#runtime, this.#session, this.#positions, inputs, outputs).run(),
      );
      if (how === "capture") this.#device.wait();
    };
    return { run: () => run("run"), capture: () => run("capture"), replay: () => run("replay"), [Symbol.dispose]() {} };
  }

  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]();
  }
}

class EmulatedRun {
  readonly #device: EmulatedDevice;
  readonly #runtime: Runtime;
  readonly #session: Session;
  /** Positions of the graph's slots. */
  readonly #positions: number;
  readonly #inputs: Readonly<Record<string, FixedTensor | Int32Array>>;
  readonly #outputs: Readonly<Record<string, FixedTensor>>;

  constructor(
    device: EmulatedDevice,
    runtime: Runtime,
    session: Session,
    positions: number,
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ) {
    this.#device = device;
    this.#runtime = runtime;
    this.#session = session;
    this.#positions = positions;
    this.#inputs = inputs;
    this.#outputs = outputs;
  }

  run(): void {
    const [past, cumulative, answered] = ["past_lengths", "cumulative_lengths", "output_rows"].map((name) =>
      this.#ints(name),
    );
    const bounds = this.#inputs["bounds"] as Int32Array;
    for (let row = 0; row < past!.length; row++) {
      const [first, end] = [cumulative![row]!, cumulative![row + 1]!];
      if (end - first > bounds[0]! || past![row]! + end - first > bounds[1]!)
        throw new Error(`row ${row} exceeds the bounds ${bounds.join(", ")}`);
      if (end > first)
        this.#row(
          row,
          first,
          end,
          past![row]!,
          [...answered!.entries()].filter(([, token]) => token >= first && token < end),
        );
    }
  }

  /** Runs one row's tokens `[first, end)`; `answers` maps answers to tokens. */
  #row(row: number, first: number, end: number, past: number, answers: readonly [number, number][]): void {
    const count = end - first;
    const cache = this.#inputs["past_key.0"] as FixedTensor;
    const [, block, heads, headDim] = cache.shape as [number, number, number, number];
    const table = this.#ints("block_table");
    const columns = table.length / this.#ints("past_lengths").length;
    const tokenBytes = 4 * heads * headDim;
    const place = (address: bigint, position: number): Uint8Array =>
      this.#device.at(
        address +
          BigInt((table[row * columns + Math.floor(position / block)]! * block + (position % block)) * tokenBytes),
        tokenBytes,
      );
    const [used, positions] = [past + count, this.#positions];
    const k = Math.max(1, answers.length);
    const soft = this.#inputs["soft_embeds"] as FixedTensor;
    const [softTokens, width] = soft.shape as [number, number];
    const embeds = this.#floats(soft);
    const softEmbeds = Float32Array.from(
      { length: count * width },
      (_, index) => embeds[softTokens === 1 ? index % width : first * width + index]!,
    );
    using given = new StepInputs(this.#runtime, true, { rows: 1, length: count, answers: k, width }, softEmbeds);
    given.ids.set(this.#ints("input_ids").subarray(first, end));
    given.positions.set(this.#ints("position_ids").subarray(first, end));
    given.lastPositions[0] = used - 1;
    given.total[0] = used;
    given.answered.set(answers.map(([, token]) => token - first));
    const columnsOf = (name: string): number => this.#outputs[name]!.shape[1]!;
    const packed = answerColumns(columnsOf("top_ids"));
    using logits = this.#runtime.tensor(new Float32Array(k * columnsOf("logits")), [k, columnsOf("logits")]);
    using packedAnswers = this.#runtime.tensor(new Float32Array(k * packed), [k, packed]);
    const caches: [string, bigint, HostTensor<Float32Array>][] = [];
    const [into, out]: [Record<string, HostTensor>, Record<string, HostTensor>] = [{}, {}];
    for (const [name, tensor] of Object.entries(this.#inputs)) {
      if (!name.startsWith("past_") || name === "past_lengths") continue;
      const { address } = tensor as FixedTensor;
      const slot = this.#runtime.tensor(new Float32Array(heads * positions * headDim), [1, heads, positions, headDim]);
      for (let position = 0; position < past; position++) {
        const strip = floatsOf(place(address, position));
        for (let head = 0; head < heads; head++)
          slot.data.set(strip.subarray(head * headDim, (head + 1) * headDim), (head * positions + position) * headDim);
      }
      caches.push([name, address, slot]);
      into[name] = out[name.replace("past", "present")] = slot;
    }
    using binding = this.#session.binding({ ...given.tensors, ...into }, { logits, answers: packedAnswers, ...out });
    this.#session.runNow(binding);
    for (const [, address, slot] of caches) {
      for (let position = past; position < used; position++) {
        const strip = new Float32Array(heads * headDim);
        for (let head = 0; head < heads; head++)
          strip.set(
            slot.data.subarray((head * positions + position) * headDim, (head * positions + position + 1) * headDim),
            head * headDim,
          );
        place(address, position).set(new Uint8Array(strip.buffer));
      }
      slot[Symbol.dispose]();
    }
    answers.forEach(([index], answer) => {
      let at = answer * packed;
      for (const name of ["logits", "top_logits", "top_ids", "top_probability"]) {
        const size = columnsOf(name);
        const data =
          name === "logits"
            ? logits.data.slice(answer * size, (answer + 1) * size)
            : packedAnswers.data.slice(at, (at += size));
        this.#device
          .at(this.#outputs[name]!.address + BigInt(4 * index * size), 4 * size)
          .set(new Uint8Array((name === "top_ids" ? Int32Array.from(data) : data).buffer));
      }
    });
  }

  #ints(name: string): Int32Array {
    const { address, shape, type } = this.#inputs[name] as FixedTensor;
    const bytes = this.#device.at(address, bytesOf(type, shape));
    return new Int32Array(bytes.slice().buffer);
  }

  #floats({ address, shape, type }: FixedTensor): Float32Array {
    return floatsOf(this.#device.at(address, bytesOf(type, shape)));
  }
}

/**
 * M of the graph's input `past_key.0` [batch, heads, M, headDim], from its ValueInfoProto: name, then
 * type.tensor_type.{elem_type, shape.dim}.
 */
function slotPositions(model: Buffer): number {
  const name = "past_key.0";
  // After the name: tags and lengths of type and tensor_type, elem_type, tag and length of shape.
  let at = model.indexOf(`\n${String.fromCharCode(name.length)}${name}`) + 2 + name.length + 8;
  const dims: number[] = [];
  for (let dim = 0; dim < 4; dim++) {
    const length = model[at + 1]!;
    const value = model.subarray(at + 2, at + 2 + length);
    // dim_value is a varint; the batch is a name.
    dims.push(
      value[0] === 8 ? value.subarray(1).reduce((sum, byte, index) => sum + ((byte & 127) << (7 * index)), 0) : 0,
    );
    at += 2 + length;
  }
  return dims[2]!;
}

function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(bytes.slice().buffer);
}

function addressOf({ address, pitch }: Strips, index: number): bigint {
  return address + BigInt(index) * BigInt(pitch);
}
