/** The supported devices. */
import { openCuda } from "./cuda.ts";
import { CPU, type Device } from "./device.ts";
import type { StreamedDevice } from "./stream-device.ts";

/**
 * `sdpa_kernel` 515: flash, memory-efficient and decoder attention, but not cuDNN's, which builds a plan for every
 * prompt length: 80 ms the first time. `enable_cuda_graph` allows capturing runs.
 */
const CUDA_SETTINGS = {
  device_id: "0",
  enable_cuda_graph: "1",
  sdpa_kernel: "515",
  arena_extend_strategy: "kSameAsRequested",
};

export const DEVICES: { readonly cpu: Device; readonly webgpu: Device; readonly cuda: StreamedDevice } = {
  cpu: CPU,
  webgpu: { kind: "webgpu", provider: { name: "WebGPU", settings: {} }, memory: "WebGPU_Buffer", hostMemory: false },
  cuda: {
    kind: "cuda",
    provider: { name: "CUDA", settings: CUDA_SETTINGS },
    memory: "Cuda",
    hostMemory: false,
    open: openCuda,
  },
};
