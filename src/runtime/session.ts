/**
 * Sessions, tensors and bindings over ORT's C API with explicit ownership: each is `Disposable` and frees its native
 * object once. Independent of any particular model.
 */
import { readCpuQuota, threadsWithin } from "./cpu-quota.ts";
import { CPU, type Device } from "./device.ts";
import { inHugePages } from "./huge-pages.ts";
import {
  ElementType,
  GraphOptimization,
  OrtApi,
  type AllocatorHandle,
  type BindingHandle,
  type EnvHandle,
  type MemoryInfoHandle,
  type RunOptionsHandle,
  type SessionHandle,
  type ValueHandle,
} from "./ort-api.ts";

export type TensorData = Float32Array | Int32Array | BigInt64Array | Uint8Array;

/** Bytes transferred between host and device since the start. */
export interface Transfers {
  readonly up: number;
  readonly down: number;
}

/** Owner of a native object. Disposing of it twice frees once. */
abstract class Owner implements Disposable {
  #released = false;

  protected abstract release(): void;

  [Symbol.dispose](): void {
    if (this.#released) return;
    this.#released = true;
    this.release();
  }
}

/** The process's one ORT environment. */
export class Runtime extends Owner {
  readonly api: OrtApi;
  readonly env: EnvHandle;
  readonly memory: MemoryInfoHandle;
  /**
   * Counted by bindings: inputs when bound (also the few bytes that ONNX Runtime reads on the host), outputs when
   * computed.
   */
  readonly transfers: { up: number; down: number } = { up: 0, down: 0 };

  /** @throws when the library cannot be loaded or has another ABI. */
  constructor(api: OrtApi = new OrtApi()) {
    super();
    this.api = api;
    this.env = api.createEnv("prefixd");
    this.memory = api.createCpuMemoryInfo();
  }

  /** A tensor over `data`, which it keeps alive. */
  tensor<T extends TensorData>(data: T, shape: readonly number[]): HostTensor<T> {
    return new HostTensor(this, data, shape);
  }

  /**
   * @param model a path, or the bytes of a model; with external data only if `options.dataFolder` is given
   * @throws OrtError when the model cannot be loaded or the device cannot be used
   */
  session(model: string | Uint8Array, options: SessionOptions): Session {
    return new Session(this, model, options);
  }

  protected override release(): void {
    this.api.releaseMemoryInfo(this.memory);
    this.api.releaseEnv(this.env);
  }
}

export interface SessionOptions {
  /** Threads inside one operator on the CPU; 0: one per core, within the container's limit. */
  readonly threads: number;
  /** Default: the CPU. On other devices a model is refused if any node would fall back to the CPU. */
  readonly device?: Device;
  /** ORT's session configuration entries. */
  readonly config?: Readonly<Record<string, string>>;
  /** Address of the device stream on which all runs are queued; default: ONNX Runtime's own. */
  readonly stream?: bigint;
  /** Keep the weights in huge pages if the system has them. */
  readonly hugePages?: boolean;
  /** The folder of the external data of a model given as bytes. */
  readonly dataFolder?: string;
  /** Do not plan memory per input shape: for inputs of ever new shapes. */
  readonly anyShape?: boolean;
}

export abstract class Tensor extends Owner {
  readonly shape: readonly number[];
  abstract readonly value: ValueHandle;
  /** Size of its data in bytes. */
  abstract readonly byteLength: number;
  protected readonly runtime: Runtime;

  constructor(runtime: Runtime, shape: readonly number[]) {
    super();
    this.runtime = runtime;
    this.shape = shape;
  }

  protected override release(): void {
    this.runtime.api.releaseValue(this.value);
  }
}

/** A tensor over a typed array. */
export class HostTensor<T extends TensorData = TensorData> extends Tensor {
  readonly data: T;
  override readonly value: ValueHandle;

  constructor(runtime: Runtime, data: T, shape: readonly number[]) {
    super(runtime, shape);
    const elements = countOf(shape);
    if (elements !== data.length)
      throw new RangeError(`a tensor [${shape.join(", ")}] needs ${elements} elements, not ${data.length}`);
    this.data = data;
    this.value = runtime.api.createTensor(runtime.memory, data, shape, elementType(data));
  }

  override get byteLength(): number {
    return this.data.byteLength;
  }
}

/** A tensor in device memory, which it may own. */
export class DeviceTensor extends Tensor {
  override readonly value: ValueHandle;
  override readonly byteLength: number;
  readonly #type: ElementType;
  readonly #memory: DeviceMemory;

  constructor(memory: DeviceMemory, type: ElementType, shape: readonly number[], value: ValueHandle) {
    super(memory.runtime, shape);
    this.#memory = memory;
    this.#type = type;
    this.value = value;
    this.byteLength = bytesOf(type, shape);
  }

  /**
   * The same memory from its start, with another shape; this tensor must outlive the view.
   * @throws RangeError if the shape does not fit
   */
  view(shape: readonly number[]): DeviceTensor {
    const byteLength = bytesOf(this.#type, shape);
    if (byteLength > this.byteLength)
      throw new RangeError(`no view [${shape.join(", ")}] of a tensor [${this.shape.join(", ")}]`);
    const { api } = this.runtime;
    const value = api.createTensorAt(this.#memory.info, api.dataOf(this.value), byteLength, shape, this.#type);
    return new DeviceTensor(this.#memory, this.#type, shape, value);
  }
}

interface DeviceMemory {
  readonly runtime: Runtime;
  readonly device: Device;
  readonly info: MemoryInfoHandle;
  readonly allocator: AllocatorHandle;
}

export class Session extends Owner {
  readonly device: Device;
  readonly #runtime: Runtime;
  readonly handle: SessionHandle;
  readonly #runOptions: RunOptionsHandle;
  #memory: DeviceMemory | null = null;
  /**
   * Bindings of running calls. Only the binding keeps their memory alive, so it must not be collected even if the
   * caller drops it.
   */
  readonly #running = new Set<Binding>();

  constructor(runtime: Runtime, model: string | Uint8Array, options: SessionOptions) {
    super();
    const { api } = runtime;
    this.#runtime = runtime;
    this.device = options.device ?? CPU;
    const native = api.createSessionOptions();
    try {
      api.setGraphOptimization(native, GraphOptimization.all);
      api.setIntraOpThreads(native, options.threads === 0 ? threadsWithin(readCpuQuota()) : options.threads);
      for (const [key, value] of Object.entries(options.config ?? {})) api.addSessionConfig(native, key, value);
      if (options.dataFolder !== undefined)
        api.addSessionConfig(native, "session.model_external_initializers_file_folder_path", options.dataFolder);
      if (options.anyShape === true) api.disableMemoryPattern(native);
      const { provider } = this.device;
      if (provider !== null) {
        api.addSessionConfig(native, "session.disable_cpu_ep_fallback", "1");
        api.appendExecutionProvider(native, provider.name, provider.settings, options.stream);
      }
      const load = (): SessionHandle => api.createSession(runtime.env, model, native);
      this.handle = options.hugePages === true ? inHugePages(load) : load();
    } finally {
      api.releaseSessionOptions(native);
    }
    this.#runOptions = api.createRunOptions();
  }

  /** A tensor in the session's device memory; dispose of it before the session. The content is undefined. */
  allocate(type: ElementType, shape: readonly number[]): DeviceTensor {
    const { api } = this.#runtime;
    if (this.#memory === null) {
      const info = api.createMemoryInfo(this.device.memory);
      this.#memory = {
        runtime: this.#runtime,
        device: this.device,
        info,
        allocator: api.createAllocator(this.handle, info),
      };
    }
    return new DeviceTensor(this.#memory, type, shape, api.allocateTensor(this.#memory.allocator, shape, type));
  }

  /** Input and output tensors by name, reusable across runs; the tensors must outlive it. */
  binding(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): Binding {
    return new Binding(this.#runtime, this.handle, this.device, inputs, outputs);
  }

  /** Runs off the event loop. Do not touch the bound tensors until it resolves. */
  async run(binding: Binding): Promise<void> {
    this.#running.add(binding);
    try {
      await this.#runtime.api.run(this.handle, this.#runOptions, binding.handle);
      this.#runtime.transfers.down += binding.bytesDown;
    } finally {
      this.#running.delete(binding);
    }
  }

  /** Runs on this thread; for runs of microseconds. */
  runNow(binding: Binding): void {
    this.#runtime.api.runNow(this.handle, this.#runOptions, binding.handle);
    this.#runtime.transfers.down += binding.bytesDown;
  }

  protected override release(): void {
    const { api } = this.#runtime;
    if (this.#memory !== null) {
      api.releaseAllocator(this.#memory.allocator);
      api.releaseMemoryInfo(this.#memory.info);
    }
    api.releaseRunOptions(this.#runOptions);
    api.releaseSession(this.handle);
  }
}

export class Binding extends Owner {
  readonly handle: BindingHandle;
  /** Bytes each run copies from device to host. */
  readonly bytesDown: number;
  readonly #runtime: Runtime;
  readonly #device: Device;
  readonly #inputs: Readonly<Record<string, Tensor>>;
  // Native values point into these tensors' memory: the binding keeps them from being collected.
  readonly tensors: readonly Tensor[];

  constructor(
    runtime: Runtime,
    session: SessionHandle,
    device: Device,
    inputs: Readonly<Record<string, Tensor>>,
    outputs: Readonly<Record<string, Tensor>>,
  ) {
    super();
    this.#runtime = runtime;
    this.#device = device;
    this.#inputs = inputs;
    this.tensors = [...Object.values(inputs), ...Object.values(outputs)];
    this.handle = runtime.api.createBinding(session);
    this.bytesDown = device.hostMemory
      ? 0
      : sum(Object.values(outputs).map((tensor) => (tensor instanceof HostTensor ? tensor.byteLength : 0)));
    try {
      for (const name of Object.keys(inputs)) this.#bindInput(name);
      for (const [name, tensor] of Object.entries(outputs)) runtime.api.bindOutput(this.handle, name, tensor.value);
    } catch (error) {
      runtime.api.releaseBinding(this.handle);
      throw error;
    }
  }

  /** Call after writing these inputs' typed arrays: a device copies them when they are bound. */
  update(...names: readonly string[]): void {
    if (this.#device.hostMemory) return;
    for (const name of names) this.#bindInput(name);
  }

  protected override release(): void {
    this.#runtime.api.releaseBinding(this.handle);
  }

  #bindInput(name: string): void {
    const tensor = this.#inputs[name]!;
    this.#runtime.api.bindInput(this.handle, name, tensor.value);
    if (!this.#device.hostMemory && tensor instanceof HostTensor) this.#runtime.transfers.up += tensor.byteLength;
  }
}

const BYTES: Readonly<Record<ElementType, number>> = {
  [ElementType.float32]: 4,
  [ElementType.uint8]: 1,
  [ElementType.int8]: 1,
  [ElementType.int32]: 4,
  [ElementType.int64]: 8,
  [ElementType.bool]: 1,
  [ElementType.float16]: 2,
};

/** Bytes of a tensor of that type and shape. */
export function bytesOf(type: ElementType, shape: readonly number[]): number {
  return countOf(shape) * BYTES[type];
}

function elementType(data: TensorData): ElementType {
  if (data instanceof Float32Array) return ElementType.float32;
  if (data instanceof Int32Array) return ElementType.int32;
  if (data instanceof BigInt64Array) return ElementType.int64;
  return ElementType.uint8;
}

function countOf(shape: readonly number[]): number {
  return shape.reduce((product, dim) => product * dim, 1);
}

function sum(numbers: readonly number[]): number {
  return numbers.reduce((total, number) => total + number, 0);
}
