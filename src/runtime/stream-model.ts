/** A model whose runs are queued on our stream, kernel by kernel or as one captured graph. */
import type { Device } from "./device.ts";
import {
  ElementType,
  type BindingHandle,
  type MemoryInfoHandle,
  type OrtApi,
  type RunOptionsHandle,
  type ValueHandle,
} from "./ort-api.ts";
import { bytesOf, type Runtime, type Session } from "./session.ts";
import type { FixedTensor, PreparedRun, StreamModel } from "./stream-device.ts";

/** gpu_graph_id of a run that is neither captured nor replayed. */
const EAGER = "-1";

/**
 * Fusing MatMul and Add into Gemm is slower on CUDA: it first fills the result with the bias, by a product with ones.
 */
const AS_WRITTEN = { "optimization.disable_specified_optimizers": "MatMulAddFusion" };

/**
 * ONNX Runtime keeps captured graphs per thread, so all calls come from this one. Runs return once queued, so this
 * thread is free while the device works; captures wait.
 */
export class SessionModel implements StreamModel {
  readonly #runtime: Runtime;
  readonly #session: Session;
  readonly #memory: MemoryInfoHandle;
  readonly #eager: RunOptionsHandle;
  #graphs = 0;

  /** @throws OrtError */
  constructor(runtime: Runtime, model: string | Uint8Array, device: Device, stream: bigint) {
    const { api } = runtime;
    this.#runtime = runtime;
    this.#session = runtime.session(model, { threads: 1, device, stream, config: AS_WRITTEN });
    this.#memory = api.createMemoryInfo(device.memory);
    this.#eager = runOptions(api, EAGER, false);
  }

  prepare(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): PreparedRun {
    const id = String(++this.#graphs);
    return new SessionRun(this.#runtime, this.#session, this.#memory, this.#eager, id, inputs, outputs);
  }

  [Symbol.dispose](): void {
    const { api } = this.#runtime;
    api.releaseRunOptions(this.#eager);
    api.releaseMemoryInfo(this.#memory);
    this.#session[Symbol.dispose]();
  }
}

class SessionRun implements PreparedRun {
  readonly #api: OrtApi;
  readonly #session: Session;
  readonly #binding: BindingHandle;
  readonly #values: ValueHandle[] = [];
  /** Arrays that native tensors point into. */
  readonly #arrays: Int32Array[] = [];
  readonly #eager: RunOptionsHandle;
  readonly #capturing: RunOptionsHandle;
  readonly #replaying: RunOptionsHandle;

  constructor(
    { api, memory: host }: Runtime,
    session: Session,
    memory: MemoryInfoHandle,
    eager: RunOptionsHandle,
    graph: string,
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ) {
    this.#api = api;
    this.#session = session;
    this.#eager = eager;
    this.#capturing = runOptions(api, graph, true);
    this.#replaying = runOptions(api, graph, false);
    this.#binding = api.createBinding(session.handle);
    const value = (tensor: FixedTensor | Int32Array): ValueHandle => {
      let made: ValueHandle;
      if (tensor instanceof Int32Array) {
        this.#arrays.push(tensor);
        made = api.createTensor(host, tensor, [tensor.length], ElementType.int32);
      } else {
        made = api.createTensorAt(
          memory,
          tensor.address,
          bytesOf(tensor.type, tensor.shape),
          tensor.shape,
          tensor.type,
        );
      }
      this.#values.push(made);
      return made;
    };
    for (const [name, tensor] of Object.entries(inputs)) api.bindInput(this.#binding, name, value(tensor));
    for (const [name, tensor] of Object.entries(outputs)) api.bindOutput(this.#binding, name, value(tensor));
  }

  run(): void {
    this.#api.runNow(this.#session.handle, this.#eager, this.#binding);
  }

  capture(): void {
    this.#api.runNow(this.#session.handle, this.#capturing, this.#binding);
  }

  replay(): void {
    this.#api.runNow(this.#session.handle, this.#replaying, this.#binding);
  }

  [Symbol.dispose](): void {
    this.#api.releaseBinding(this.#binding);
    for (const value of this.#values) this.#api.releaseValue(value);
    for (const options of [this.#capturing, this.#replaying]) this.#api.releaseRunOptions(options);
  }
}

/** @param synchronous whether the run returns only when the device has finished it */
function runOptions(api: OrtApi, graph: string, synchronous: boolean): RunOptionsHandle {
  const options = api.createRunOptions();
  api.addRunConfig(options, "gpu_graph_id", graph);
  if (!synchronous) api.addRunConfig(options, "disable_synchronize_execution_providers", "1");
  return options;
}
