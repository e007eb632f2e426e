/**
 * CUDA's test double on a WebGPU device: memory is the emulated device's, and each run takes its tensors to the device and
 * back. So the graph over pages is run itself, by WebGPU's PagedAttention: precision fp16, vocabularies that are not cut
 * into parts (WebGPU has no int64 arithmetic).
 */
import { DEVICES } from "../../src/runtime/devices.ts";
import type { Runtime } from "../../src/runtime/session.ts";
import type { StreamedDevice, StreamModel } from "../../src/runtime/stream-device.ts";
import { EmulatedDevice } from "./emulated-device.ts";
import { TakenModel } from "./taken-model.ts";

class WebgpuStream extends EmulatedDevice {
  override load(runtime: Runtime, model: string | Uint8Array): StreamModel {
    return new TakenModel(this, runtime, model, DEVICES.webgpu);
  }
}

export const WEBGPU_STREAM: StreamedDevice = { ...DEVICES.webgpu, open: () => new WebgpuStream() };
