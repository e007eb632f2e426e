/** Where a model can run: what ONNX Runtime has to be told, and what may be done with tensors there. */
import type { ExecutionProviderName } from "./ort-api.ts";

export type DeviceKind = "cpu" | "webgpu" | "cuda";

export interface Device {
  readonly kind: DeviceKind;
  /** The execution provider and its settings; null: the CPU's, which is always there. */
  readonly provider: {
    readonly name: ExecutionProviderName;
    readonly settings: Readonly<Record<string, string>>;
  } | null;
  /** ORT's name of the memory that tensors lie in. */
  readonly memory: string;
  /** Kernels work on the process's own memory: typed arrays are tensors, nothing is ever copied. */
  readonly hostMemory: boolean;
}

export const CPU: Device = { kind: "cpu", provider: null, memory: "Cpu", hostMemory: true };
