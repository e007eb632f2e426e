/**
 * What CUDA needs: ONNX Runtime's provider, NVIDIA's driver, and the libraries that the installed provider links
 * against.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { neededLibraries } from "../runtime/elf.ts";
import { libraryProblem } from "../runtime/ort-api.ts";
import type { Findings } from "./findings.ts";

const PROVIDERS = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"];
const DRIVER = "libcuda.so.1";
/**
 * Libraries that providers link against, by CUDA major version, in dependency order, each with its package in NVIDIA's
 * repository.
 */
const LIBRARIES: Readonly<Record<number, Readonly<Record<string, string>>>> = {
  12: {
    "libcudart.so.12": "cuda-cudart-12-9",
    "libnvrtc.so.12": "cuda-nvrtc-12-9",
    "libcublasLt.so.12": "libcublas-12-9",
    "libcublas.so.12": "libcublas-12-9",
    "libcufft.so.11": "libcufft-12-9",
    "libcurand.so.10": "libcurand-12-9",
    "libcudnn.so.9": "libcudnn9-cuda-12",
  },
  13: {
    "libcudart.so.13": "cuda-cudart-13-0",
    "libnvrtc.so.13": "cuda-nvrtc-13-0",
    "libcublasLt.so.13": "libcublas-13-0",
    "libcublas.so.13": "libcublas-13-0",
    "libcufft.so.12": "libcufft-13-0",
    "libcurand.so.10": "libcurand-13-0",
    "libcudnn.so.9": "libcudnn9-cuda-13",
  },
};
/** The default of onnxruntime-node's installer. */
const DEFAULT_VERSION = 12;
/**
 * glibc's message if the library itself is absent; if one of its dependencies is, the message begins with that one's
 * name.
 */
const ABSENT = "cannot open shared object file: No such file or directory";
const NVIDIA_SMI = ["--query-gpu=name,memory.total,memory.free,driver_version", "--format=csv,noheader"];
const NVIDIA_SMI_TIMEOUT_MS = 10_000;

/**
 * npm runs no install scripts here, so providers are downloaded by hand. The library is in bin/napi-v6/linux/x64 of its
 * package.
 */
const installer = (libraryPath: string | null): string =>
  join(
    libraryPath === null ? "node_modules/onnxruntime-node" : join(dirname(libraryPath), "../../../.."),
    "script/install.js",
  );

/** @param libraryPath ONNX Runtime's library, whose folder has the providers; null if there is none */
export function examineCuda(libraryPath: string | null): Findings {
  if (process.platform !== "linux" || process.arch !== "x64")
    return { facts: [], missing: ["ONNX Runtime's package supports CUDA only on Linux x64."] };
  const beside = libraryPath === null ? "" : dirname(libraryPath);
  const absent = PROVIDERS.filter((name) => !existsSync(join(beside, name)));
  const driver = libraryProblem(DRIVER);
  const { version, libraries } = linkedAgainst(join(beside, PROVIDERS[1]!));
  const problems = libraries.flatMap((name) => {
    // The provider looks in its own folder first.
    const path = join(beside, name);
    const problem = libraryProblem(existsSync(path) ? path : name);
    return problem === null ? [] : [{ name, problem }];
  });
  const missing: string[] = [];
  if (absent.length > 0)
    missing.push(
      `onnxruntime-node was installed without ${absent.join(" and ")}: ONNXRUNTIME_NODE_INSTALL=cuda12 node ${installer(libraryPath)} downloads them.`,
    );
  if (driver !== null)
    missing.push(
      `There is no NVIDIA driver (${DRIVER}): install it on the host; a container needs the NVIDIA Container Toolkit and --gpus all.`,
    );
  if (problems.length > 0) {
    const packages = [...new Set(problems.map(({ name }) => LIBRARIES[version]?.[name]))].filter(
      (name) => name !== undefined,
    );
    const remedy = packages.length === 0 ? "" : `: apt install ${packages.join(" ")} (from NVIDIA's repository)`;
    missing.push(`CUDA ${version} libraries are missing: ${problems.map(({ name }) => name).join(", ")}${remedy}.`);
  }
  return {
    facts: [
      `CUDA provider: ${absent.length === 0 ? beside : "not installed"}`,
      `NVIDIA driver: ${driver === null ? driverVersion() : `none (${driver})`}`,
      `CUDA ${version} libraries found: ${libraries.filter((name) => !problems.some((problem) => problem.name === name)).join(", ") || "none"}`,
      ...problems
        .filter(({ problem }) => problem !== ABSENT)
        .map(({ name, problem }) => `${name} cannot be loaded: ${problem}`),
      ...gpus().map((gpu) => `GPU (name, memory, free, driver): ${gpu}`),
    ],
    missing,
  };
}

/**
 * CUDA's major version and the libraries that a provider links against; by default those of the version installed by
 * default.
 */
function linkedAgainst(provider: string): { version: number; libraries: readonly string[] } {
  const needed = existsSync(provider) ? neededLibraries(provider) : [];
  const version = Number(
    needed.map((name) => /^libcudart\.so\.(\d+)/.exec(name)?.[1]).find((found) => found !== undefined) ??
      DEFAULT_VERSION,
  );
  const libraries = needed.filter((name) => /^lib(cu|nv)/.test(name) && name !== DRIVER);
  return { version, libraries: libraries.length > 0 ? libraries : Object.keys(LIBRARIES[version]!) };
}

/** "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  ..." */
function driverVersion(): string {
  try {
    return (
      /^NVRM version:\s*(.*)$/m.exec(readFileSync("/proc/driver/nvidia/version", "utf8"))?.[1] ??
      "of an unknown version"
    );
  } catch {
    return `${DRIVER}, but the kernel has no NVIDIA module`;
  }
}

/** nvidia-smi's lines; none if it is not installed or does not respond. */
function gpus(): string[] {
  const { status, stdout } = spawnSync("nvidia-smi", NVIDIA_SMI, { encoding: "utf8", timeout: NVIDIA_SMI_TIMEOUT_MS });
  return status === 0 ? stdout.trim().split("\n") : [];
}
