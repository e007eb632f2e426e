/** Devices that tests can use on any machine. */
import { join } from "node:path";
import koffi from "koffi";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import type { StreamedDevice } from "../../src/runtime/stream-device.ts";
import { EmulatedDevice } from "./emulated-device.ts";
import { lacking, LAVAPIPE, SWIFTSHADER } from "./requirements.ts";

/**
 * The CPU's kernels on memory treated as a device's: runs the GPU code without a GPU, with the CPU's exact arithmetic.
 */
export const SIMULATED = {
  /** Like WebGPU: memory addressed by handles, moved by small graphs. */
  handles: { ...DEVICES.cpu, hostMemory: false },
  /** Like CUDA: a stream of work on memory at fixed addresses, attention over pages, captured graphs. */
  stream: { ...DEVICES.cpu, hostMemory: false, open: () => new EmulatedDevice() },
} as const satisfies Readonly<Record<string, Device | StreamedDevice>>;

/** Vulkan drivers that compute on the processor. SwiftShader has no half precision. */
export type SoftwareDriver = "swiftshader" | "lavapipe";

/**
 * Makes WebGPU usable in this process; returns why it is not. PREFIXD_TEST_GPU=1 uses the machine's own Vulkan device
 * instead of SwiftShader. Call it before the first session: the process keeps to its driver from then on.
 */
export function webgpuSkip(driver: SoftwareDriver = "swiftshader"): string | false {
  if (usesGpu(driver)) return false;
  const skip = lacking(driver);
  if (skip !== false) return skip;
  Object.assign(process.env, settings(driver));
  // Once loaded, it is found by name.
  loaded.push(koffi.load(join(SWIFTSHADER, "libvulkan.so.1")));
  return false;
}

const loaded: unknown[] = [];

const usesGpu = (driver: SoftwareDriver): boolean =>
  driver === "swiftshader" && process.env["PREFIXD_TEST_GPU"] === "1";

/** The same for another process. */
export function webgpuEnvironment(driver: SoftwareDriver = "swiftshader"): Record<string, string> {
  if (usesGpu(driver)) return {};
  return { ...settings(driver), LD_LIBRARY_PATH: SWIFTSHADER };
}

/**
 * lavapipe keeps what it has compiled, so that other processes need not. Vectors as short as on any processor, whose
 * code compiles in half the time.
 */
const settings = (driver: SoftwareDriver): Record<string, string> =>
  driver === "swiftshader"
    ? { VK_ICD_FILENAMES: join(SWIFTSHADER, "vk_swiftshader_icd.json") }
    : {
        VK_ICD_FILENAMES: join(LAVAPIPE, "lavapipe.json"),
        MESA_SHADER_CACHE_DIR: LAVAPIPE,
        LP_NATIVE_VECTOR_WIDTH: "128",
      };
