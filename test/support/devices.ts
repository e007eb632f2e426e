/** Devices that tests can use on any machine. */
import { join } from "node:path";
import koffi from "koffi";
import { DEVICES, type Device } from "../../src/runtime/device.ts";
import { lacking, SWIFTSHADER } from "./requirements.ts";

/** The CPU's kernels on memory that is treated as a device's: what runs on GPUs, without one, and with the CPU's exact arithmetic. */
export const SIMULATED: Readonly<Record<string, Device>> = {
  "device memory with row views": { ...DEVICES.cpu, hostMemory: false },
  "device memory known by handles": { ...DEVICES.cpu, hostMemory: false, rowViews: false },
};

/**
 * Makes WebGPU usable in this process; answers why it is not. PREFIXD_TEST_GPU=1 takes the machine's own Vulkan device.
 * Kept in mind by the driver from the first session on: to be called before it.
 */
export function webgpuSkip(): string | false {
  if (process.env["PREFIXD_TEST_GPU"] === "1") return false;
  const skip = lacking("swiftshader");
  if (skip !== false) return skip;
  process.env["VK_ICD_FILENAMES"] = join(SWIFTSHADER, "vk_swiftshader_icd.json");
  // Found by its name once it is loaded.
  loaded.push(koffi.load(join(SWIFTSHADER, "libvulkan.so.1")));
  return false;
}

const loaded: unknown[] = [];

/** The same for another process. */
export function webgpuEnvironment(): Record<string, string> {
  return process.env["PREFIXD_TEST_GPU"] === "1" ? {} : { VK_ICD_FILENAMES: join(SWIFTSHADER, "vk_swiftshader_icd.json"), LD_LIBRARY_PATH: SWIFTSHADER };
}
