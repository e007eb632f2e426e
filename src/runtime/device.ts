/** Where a model can run: ONNX Runtime's settings for it, and how its tensors may be accessed. */
import type { ExecutionProviderName } from "./ort-api.ts";

export type DeviceKind = "cpu" | "webgpu" | "cuda";

export interface Device {
  readonly kind: DeviceKind;
  /** The execution provider and its settings; null: the CPU's, which is always present. */
  readonly provider: {
    readonly name: ExecutionProviderName;
    readonly settings: Readonly<Record<string, string>>;
  } | null;
  /** ORT's name for the memory of tensors. */
  readonly memory: string;
  /** Kernels work on host memory: typed arrays are tensors and nothing is copied. */
  readonly hostMemory: boolean;
}

export const CPU: Device = { kind: "cpu", provider: null, memory: "Cpu", hostMemory: true };
