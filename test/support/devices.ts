/** Devices that tests can use on any machine. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import koffi from "koffi";
import { DEVICES, type Device } from "../../src/runtime/device.ts";

/** The CPU's kernels on memory that is treated as a device's: what runs on GPUs, without one, and with the CPU's exact arithmetic. */
export const SIMULATED: Readonly<Record<string, Device>> = {
  "device memory with row views": { ...DEVICES.cpu, hostMemory: false },
  "device memory known by handles": { ...DEVICES.cpu, hostMemory: false, rowViews: false },
};

/** Debian's chromium package has a Vulkan loader and SwiftShader, a Vulkan device made of CPU threads. */
const CHROMIUM = "/usr/lib/chromium";

/**
 * Makes WebGPU usable in this process; answers why it is not. PREFIXD_TEST_GPU=1 takes the machine's own Vulkan device.
 * Kept in mind by the driver from the first session on: to be called before it.
 */
export function webgpuSkip(): string | false {
  if (process.env["PREFIXD_TEST_GPU"] === "1") return false;
  const icd = join(CHROMIUM, "vk_swiftshader_icd.json");
  if (!existsSync(icd)) return `no SwiftShader in ${CHROMIUM} (Debian's chromium package has it)`;
  process.env["VK_ICD_FILENAMES"] = icd;
  // Found by its name once it is loaded.
  loaded.push(koffi.load(join(CHROMIUM, "libvulkan.so.1")));
  return false;
}

const loaded: unknown[] = [];

/** The same for another process. */
export function webgpuEnvironment(): Record<string, string> {
  return process.env["PREFIXD_TEST_GPU"] === "1" ? {} : { VK_ICD_FILENAMES: join(CHROMIUM, "vk_swiftshader_icd.json"), LD_LIBRARY_PATH: CHROMIUM };
}
