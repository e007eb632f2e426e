/**
 * Sessions, tensors and bindings over ORT's C API, with visible ownership: each is `Disposable` and frees its native object once.
 * Knows nothing of any particular model.
 */
import {
  ElementType,
  GraphOptimization,
  OrtApi,
  type BindingHandle,
  type EnvHandle,
  type MemoryInfoHandle,
  type RunOptionsHandle,
  type SessionHandle,
  type ValueHandle,
} from "./ort-api.ts";

export type TensorData = Float32Array | Int32Array | BigInt64Array | Uint8Array;

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

  /** @throws when the library cannot be loaded or has another ABI. */
  constructor(api: OrtApi = new OrtApi()) {
    super();
    this.api = api;
    this.env = api.createEnv("prefixd");
    this.memory = api.createCpuMemoryInfo();
  }

  /** A tensor over `data`; the typed array is kept alive by the tensor. */
  tensor<T extends TensorData>(data: T, shape: readonly number[]): Tensor<T> {
    return new Tensor(this, data, shape);
  }

  /** @throws OrtError when the model cannot be loaded. */
  session(modelPath: string, options: SessionOptions): Session {
    return new Session(this, modelPath, options);
  }

  protected override release(): void {
    this.api.releaseMemoryInfo(this.memory);
    this.api.releaseEnv(this.env);
  }
}

export interface SessionOptions {
  /** Threads inside one operator; 0: one per core. */
  readonly threads: number;
  /** ORT's session configuration entries. */
  readonly config?: Readonly<Record<string, string>>;
}

export class Tensor<T extends TensorData = TensorData> extends Owner {
  readonly data: T;
  readonly shape: readonly number[];
  readonly value: ValueHandle;
  readonly #runtime: Runtime;

  constructor(runtime: Runtime, data: T, shape: readonly number[]) {
    super();
    const elements = shape.reduce((product, dim) => product * dim, 1);
    if (elements !== data.length) throw new RangeError(`a tensor [${shape.join(", ")}] needs ${elements} elements, not ${data.length}`);
    this.data = data;
    this.shape = shape;
    this.#runtime = runtime;
    this.value = runtime.api.createTensor(runtime.memory, data, shape, elementType(data));
  }

  protected override release(): void {
    this.#runtime.api.releaseValue(this.value);
  }
}

export class Session extends Owner {
  readonly #runtime: Runtime;
  readonly #session: SessionHandle;
  readonly #runOptions: RunOptionsHandle;
  /** A run reads memory that only its binding keeps alive: it must not be collected, even if the caller has let go of it. */
  readonly #running = new Set<Binding>();

  constructor(runtime: Runtime, modelPath: string, options: SessionOptions) {
    super();
    const { api } = runtime;
    this.#runtime = runtime;
    const native = api.createSessionOptions();
    try {
      api.setGraphOptimization(native, GraphOptimization.all);
      api.setIntraOpThreads(native, options.threads);
      for (const [key, value] of Object.entries(options.config ?? {})) api.addSessionConfig(native, key, value);
      this.#session = api.createSession(runtime.env, modelPath, native);
    } finally {
      api.releaseSessionOptions(native);
    }
    this.#runOptions = api.createRunOptions();
  }

  /** Input and output tensors by name, kept between runs; the tensors must outlive it. */
  binding(inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>): Binding {
    return new Binding(this.#runtime, this.#session, inputs, outputs);
  }

  /** Runs off the event loop. The caller waits for one run to end before it touches the bound tensors. */
  async run(binding: Binding): Promise<void> {
    this.#running.add(binding);
    try {
      await this.#runtime.api.run(this.#session, this.#runOptions, binding.handle);
    } finally {
      this.#running.delete(binding);
    }
  }

  protected override release(): void {
    this.#runtime.api.releaseRunOptions(this.#runOptions);
    this.#runtime.api.releaseSession(this.#session);
  }
}

export class Binding extends Owner {
  readonly handle: BindingHandle;
  readonly #runtime: Runtime;
  // Native values point into these tensors' memory: a binding keeps them from being collected.
  readonly tensors: readonly Tensor[];

  constructor(runtime: Runtime, session: SessionHandle, inputs: Readonly<Record<string, Tensor>>, outputs: Readonly<Record<string, Tensor>>) {
    super();
    this.#runtime = runtime;
    this.tensors = [...Object.values(inputs), ...Object.values(outputs)];
    this.handle = runtime.api.createBinding(session);
    try {
      for (const [name, tensor] of Object.entries(inputs)) runtime.api.bindInput(this.handle, name, tensor.value);
      for (const [name, tensor] of Object.entries(outputs)) runtime.api.bindOutput(this.handle, name, tensor.value);
    } catch (error) {
      runtime.api.releaseBinding(this.handle);
      throw error;
    }
  }

  protected override release(): void {
    this.#runtime.api.releaseBinding(this.handle);
  }
}

function elementType(data: TensorData): ElementType {
  if (data instanceof Float32Array) return ElementType.float32;
  if (data instanceof Int32Array) return ElementType.int32;
  if (data instanceof BigInt64Array) return ElementType.int64;
  return ElementType.uint8;
}
