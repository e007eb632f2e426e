/** The CPU time the process may use: a container's limit, which Node and ONNX Runtime do not see. */
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { readSystemFile } from "../system-files.ts";

const CGROUPS = "/sys/fs/cgroup";

/** The tightest limit of the process's cgroup and its ancestors (cgroup v2), in cores; null if there is none. */
export function readCpuQuota(): number | null {
  const quotas: number[] = [];
  for (let path = cgroupPath(readSystemFile("/proc/self/cgroup")); ; path = dirname(path)) {
    const quota = cpuQuota(readSystemFile(join(CGROUPS, path, "cpu.max")));
    if (quota !== null) quotas.push(quota);
    if (path === "/") return quotas.length === 0 ? null : Math.min(...quotas);
  }
}

/**
 * Number of threads that fit a CPU limit; more would only wait for each other. 0 (one per core) if the limit does not
 * bind.
 */
export function threadsWithin(quota: number | null, cores: number = availableParallelism()): number {
  return quota === null || quota >= cores ? 0 : Math.max(1, Math.floor(quota));
}

/** The cgroup v2 path from /proc/self/cgroup ("0::/system.slice/prefixd.service"). */
export function cgroupPath(text: string): string {
  return /^0::(\/.*)$/m.exec(text)?.[1] ?? "/";
}

/** Cores from cgroup v2's cpu.max, "quota period" in microseconds; null for "max" or a missing file. */
export function cpuQuota(text: string): number | null {
  const match = /^(\d+) (\d+)/.exec(text);
  return match === null ? null : Number(match[1]) / Number(match[2]);
}
