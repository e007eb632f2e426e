import type { Device } from "../../src/runtime/device.ts";
import { Disposables } from "../../src/runtime/disposables.ts";
import { bytesOf, Tensor, type Runtime, type Session } from "../../src/runtime/session.ts";
import type { FixedTensor, PreparedRun, StreamModel } from "../../src/runtime/stream-device.ts";

/** What it uses of an emulated device. */
interface Emulated {
  at(address: bigint, bytes: number): Uint8Array;
  queue(what: string, work: () => void): void;
  wait(): void;
}

/** A model that a real session runs: each run takes its tensors out of the emulated device's memory and puts them back. */
export class TakenModel implements StreamModel {
  readonly #device: Emulated;
  readonly #runtime: Runtime;
  readonly #session: Session;

  constructor(device: Emulated, runtime: Runtime, model: string | Uint8Array, kernels: Device) {
    this.#device = device;
    this.#runtime = runtime;
    this.#session = runtime.session(model, { threads: 1, device: kernels });
  }

  prepare(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): PreparedRun {
    const queue = (how: string): void => this.#device.queue(how, () => this.#run(inputs, outputs));
    return {
      run: () => queue("run"),
      capture: () => {
        queue("capture");
        this.#device.wait();
      },
      replay: () => queue("replay"),
      [Symbol.dispose]() {},
    };
  }

  [Symbol.dispose](): void {
    this.#session[Symbol.dispose]();
  }

  #run(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): void {
    using tensors = new Disposables();
    const taken = (tensor: FixedTensor | Int32Array): Tensor =>
      tensors.use(
        tensor instanceof Int32Array
          ? this.#runtime.tensor(tensor, [tensor.length])
          : new BytesTensor(this.#runtime, this.#bytesAt(tensor).slice(), tensor),
      );
    const all = (given: Readonly<Record<string, FixedTensor | Int32Array>>): Record<string, Tensor> =>
      Object.fromEntries(Object.entries(given).map(([name, tensor]) => [name, taken(tensor)]));
    const answers = all(outputs);
    using binding = this.#session.binding(all(inputs), answers);
    this.#session.runNow(binding);
    for (const [name, tensor] of Object.entries(outputs))
      this.#bytesAt(tensor).set((answers[name] as BytesTensor).bytes);
  }

  #bytesAt({ address, shape, type }: FixedTensor): Uint8Array {
    return this.#device.at(address, bytesOf(type, shape));
  }
}

/** A tensor of any type over bytes. */
class BytesTensor extends Tensor {
  readonly bytes: Uint8Array;
  override readonly value: Tensor["value"];

  constructor(runtime: Runtime, bytes: Uint8Array, { shape, type }: Pick<FixedTensor, "shape" | "type">) {
    super(runtime, shape);
    this.bytes = bytes;
    this.value = runtime.api.createTensor(runtime.memory, bytes, shape, type);
  }

  override get byteLength(): number {
    return this.bytes.length;
  }
}
