/**
 * CUDA's test double on a WebGPU device: memory is the emulated device's, and each run takes its tensors to the device and
 * back. So the graph over pages is run itself, by WebGPU's PagedAttention: precision fp16, vocabularies that are not cut
 * into parts (WebGPU has no int64 arithmetic).
 */
import { DEVICES } from "../../src/runtime/devices.ts";
import { Disposables } from "../../src/runtime/disposables.ts";
import { bytesOf, Tensor, type Runtime, type Session } from "../../src/runtime/session.ts";
import type { FixedTensor, PreparedRun, StreamedDevice, StreamModel } from "../../src/runtime/stream-device.ts";
import { EmulatedDevice } from "./emulated-device.ts";

export class WebgpuStream extends EmulatedDevice {
  override load(runtime: Runtime, model: string | Uint8Array): StreamModel {
    return new TakenModel(this, runtime, model);
  }
}

export const WEBGPU_STREAM: StreamedDevice = { ...DEVICES.webgpu, open: () => new WebgpuStream() };

class TakenModel implements StreamModel {
  readonly #device: EmulatedDevice;
  readonly #runtime: Runtime;
  readonly #session: Session;

  constructor(device: EmulatedDevice, runtime: Runtime, model: string | Uint8Array) {
    this.#device = device;
    this.#runtime = runtime;
    this.#session = runtime.session(model, { threads: 1, device: DEVICES.webgpu });
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
