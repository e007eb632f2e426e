import { readFileSync } from "node:fs";

/**
 * ORT session settings with which 8-bit products are exact. x86 processors without VNNI sum pairs of products in 16 bits that
 * saturate; ORT then has to take other kernels. They are exact everywhere but half as fast, so they are asked for only where needed;
 * a processor that does not say what it has counts as without.
 */
export function exactIntegerKernels(arch: string = process.arch, flags: string = processorFlags()): Readonly<Record<string, string>> {
  if (arch !== "x64" || /\bavx(512)?_vnni\b/.test(flags)) return {};
  return { "session.x64quantprecision": "1" };
}

function processorFlags(): string {
  try {
    return /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1] ?? "";
  } catch {
    return "";
  }
}
