/** The devices that there are. */
import { openCuda } from "./cuda.ts";
import { CPU, type Device } from "./device.ts";
import type { StreamedDevice } from "./stream-device.ts";

/**
 * `sdpa_kernel`: flash attention, memory-efficient attention and the decoder's, but not cuDNN's, which makes a plan of its own for every
 * length of prompt: 80 ms the first time. With `enable_cuda_graph` runs can be captured.
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
