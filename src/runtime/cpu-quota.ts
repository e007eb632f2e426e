/** How much of the processor the process may use: a container's bound, which Node and ONNX Runtime do not see. */
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { readSystemFile } from "../system-files.ts";

const CGROUPS = "/sys/fs/cgroup";

/** Cores' worth of time, of the cgroup and all those around it (cgroup v2); null: no bound is known. */
export function readCpuQuota(): number | null {
  const quotas: number[] = [];
  for (let path = cgroupPath(readSystemFile("/proc/self/cgroup")); ; path = dirname(path)) {
    const quota = cpuQuota(readSystemFile(join(CGROUPS, path, "cpu.max")));
    if (quota !== null) quotas.push(quota);
    if (path === "/") return quotas.length === 0 ? null : Math.min(...quotas);
  }
}

/** Threads that a bound on the processor leaves room for: threads beyond it would wait for each other. 0: one per core, nothing bounds them. */
export function threadsWithin(quota: number | null, cores: number = availableParallelism()): number {
  return quota === null || quota >= cores ? 0 : Math.max(1, Math.floor(quota));
}

/** The cgroup v2's folder out of /proc/self/cgroup ("0::/system.slice/prefixd.service"). */
export function cgroupPath(text: string): string {
  return /^0::(\/.*)$/m.exec(text)?.[1] ?? "/";
}

/** Cores out of cgroup v2's cpu.max: quota and period in microseconds; null for "max" and for what is not there. */
export function cpuQuota(text: string): number | null {
  const match = /^(\d+) (\d+)/.exec(text);
  return match === null ? null : Number(match[1]) / Number(match[2]);
}
