/** Devices that tests can use on any machine. */
import { join } from "node:path";
import koffi from "koffi";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import type { StreamedDevice } from "../../src/runtime/stream-device.ts";
import { EmulatedDevice } from "./emulated-device.ts";
import { lacking, SWIFTSHADER } from "./requirements.ts";

/**
 * The CPU's kernels on memory treated as a device's: runs the GPU code without a GPU, with the CPU's exact arithmetic.
 */
export const SIMULATED = {
  /** Like WebGPU: memory addressed by handles, moved by small graphs. */
  handles: { ...DEVICES.cpu, hostMemory: false },
  /** Like CUDA: a stream of work on memory at fixed addresses, attention over pages, captured graphs. */
  stream: { ...DEVICES.cpu, hostMemory: false, open: () => new EmulatedDevice() },
} as const satisfies Readonly<Record<string, Device | StreamedDevice>>;

/**
 * Makes WebGPU usable in this process; returns why it is not. PREFIXD_TEST_GPU=1 uses the machine's own Vulkan device.
 * Call it before the first session: the driver keeps the setting from then on.
 */
export function webgpuSkip(): string | false {
  if (process.env["PREFIXD_TEST_GPU"] === "1") return false;
  const skip = lacking("swiftshader");
  if (skip !== false) return skip;
  process.env["VK_ICD_FILENAMES"] = join(SWIFTSHADER, "vk_swiftshader_icd.json");
  // Once loaded, it is found by name.
  loaded.push(koffi.load(join(SWIFTSHADER, "libvulkan.so.1")));
  return false;
}

const loaded: unknown[] = [];

/** The same for another process. */
export function webgpuEnvironment(): Record<string, string> {
  return process.env["PREFIXD_TEST_GPU"] === "1"
    ? {}
    : { VK_ICD_FILENAMES: join(SWIFTSHADER, "vk_swiftshader_icd.json"), LD_LIBRARY_PATH: SWIFTSHADER };
}
