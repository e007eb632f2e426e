/** The machine, and what about it may surprise an operator. Linux tells most; other systems report fewer facts. */
import { arch, availableParallelism, cpus, freemem, platform, release, totalmem } from "node:os";
import { readCpuQuota } from "../runtime/cpu-quota.ts";
import { readSystemFile, softLimit } from "../system-files.ts";

export interface MachineReport {
  readonly node: string;
  /** System, architecture, kernel. */
  readonly platform: string;
  readonly cpu: {
    readonly model: string;
    readonly cores: number;
    /** The container's CPU limit in cores; null if none is known. */
    readonly quota: number | null;
    /** Vector extensions that select ONNX Runtime's kernels; null if unknown on this system. */
    readonly vector_extensions: readonly string[] | null;
  };
  /** Bytes. */
  readonly memory: {
    readonly total: number;
    readonly available: number;
    /** The container's (cgroup's) limit; null if none. */
    readonly limit: number | null;
  };
}

/** The inputs of the warnings, separate from how they were read. */
export interface Bounds {
  readonly machine: MachineReport;
  /** Contents of /proc/self/limits; "" if there is none. */
  readonly processLimits: string;
  /** `--max-batch` */
  readonly slots: number;
  /** True if weights and KV cache are in host memory: the device is the CPU. */
  readonly hostMemory: boolean;
}

export function examineMachine(): MachineReport {
  const limit = process.constrainedMemory();
  const cpuinfo = readSystemFile("/proc/cpuinfo");
  return {
    node: process.version,
    platform: `${platform()} ${arch()} ${release()}`,
    cpu: {
      model: cpus()[0]?.model.trim() || "unknown",
      cores: availableParallelism(),
      quota: readCpuQuota(),
      vector_extensions: cpuinfo === "" ? null : vectorExtensions(cpuinfo),
    },
    // The system reports no limit as 0 or as more than all memory.
    memory: { total: totalmem(), available: freemem(), limit: limit > 0 && limit < totalmem() ? limit : null },
  };
}

const X86 = [
  "avx",
  "avx2",
  "fma",
  "f16c",
  "avx_vnni",
  "avx512f",
  "avx512_vnni",
  "avx512_bf16",
  "avx512_fp16",
  "amx_bf16",
  "amx_int8",
];
const ARM = ["asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2"];

/** Of the first processor in /proc/cpuinfo; the line is "flags" on x86 and "Features" on ARM. */
export function vectorExtensions(cpuinfo: string): string[] {
  const flags = new Set(/^(?:flags|Features)\s*:\s*(.*)$/m.exec(cpuinfo)?.[1]?.split(" "));
  return [...X86, ...ARM].filter((name) => flags.has(name));
}

/**
 * GPT-2 small, the smallest model people serve: 124.4M parameters plus a second copy of the embeddings (38.6M), fp32;
 * and layers, width, positions for a slot.
 */
const WEIGHT_BYTES = (124.4e6 + 38.6e6) * 4;
const SLOT_BYTES = 12 * 2 * 768 * 1024 * 4;
/** Node, ONNX Runtime, the store. */
const PROCESS_BYTES = 200e6;
/** Every connection takes a file descriptor, and so do LMDB's files. */
const FEW_FILES = 1024;

/** One sentence per surprise that awaits the operator. */
export function warningsOf({ machine, processLimits, slots, hostMemory }: Bounds): string[] {
  const warnings: string[] = [];
  const { cpu, memory } = machine;
  const room = memory.limit ?? memory.total;
  const needed = PROCESS_BYTES + (hostMemory ? WEIGHT_BYTES + slots * SLOT_BYTES : 0);
  if (room < needed) {
    const whose = memory.limit === null ? "This machine has" : "The container may use";
    warnings.push(
      `${whose} ${gigabytes(room)} of memory; GPT-2 small with --max-batch ${slots} and full contexts takes about ${gigabytes(needed)}. A smaller --max-batch takes less.`,
    );
  }
  if (cpu.vector_extensions !== null && machine.platform.includes("x64") && !cpu.vector_extensions.includes("avx2")) {
    warnings.push(
      "The processor has no AVX2 (or the virtual machine hides it): ONNX Runtime falls back to its slowest kernels.",
    );
  }
  const files = softLimit(processLimits, "Max open files");
  if (files < FEW_FILES) warnings.push(`The process may open ${files} files (ulimit -n), and every connection is one.`);
  const address = softLimit(processLimits, "Max address space");
  if (address < Infinity)
    warnings.push(
      `Address space is limited to ${gigabytes(address)} (ulimit -v); LMDB and the KV cache reserve more than they use.`,
    );
  return warnings;
}

export function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(1)} GB`;
}
