/**
 * What tests need beyond Node, how it is found, and how to get it. Tests that lack something are skipped with the
 * reason from here, and `npm test` ends with a list of skipped tests. PREFIXD_TEST_WITHOUT=redis-server,chromium runs
 * the tests as on a machine that lacks these.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from "node:fs";
import type { Server } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import koffi from "koffi";
import type { Test } from "tap";
import { examineCuda } from "../../src/doctor/cuda.ts";
import { stopHandshakes } from "../../src/http/connections/handshakes.ts";
import { defaultLibraryPath } from "../../src/runtime/ort-api.ts";
import { bareNode, programArguments, ROOT } from "./program.ts";

export interface Requirement {
  /** Completes "needs ...". */
  readonly what: string;
  readonly get: string;
  readonly found: () => boolean;
  /** Why CI may lack it too; absent: CI may skip nothing for lack of it. */
  readonly mayLackInCi?: string;
}

export const KUBERNETES_TOOLS = join(ROOT, "tools/kubernetes");
/** Debian installs HAProxy and nginx in /usr/sbin, which is not on everybody's path; Helm may be the tools' own. */
export const SYSTEM_PATH = `${process.env["PATH"] ?? ""}:/usr/sbin:${join(KUBERNETES_TOOLS, "build")}`;
export const PYTHON = process.env["PYTHON"] ?? "python3";
export const BROWSER = "/usr/bin/chromium";
/** Debian's chromium package has a Vulkan loader and SwiftShader, a Vulkan device made of CPU threads. */
export const SWIFTSHADER = "/usr/lib/chromium";
/** Mesa's Vulkan device made of CPU threads, which has half precision. */
export const LAVAPIPE = join(ROOT, "tools/lavapipe");
/** A user without write access, by uid and gid. */
export const NOBODY = 65_534;

const apt = (name: string): string => `apt-get install ${name}`;
const HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled";
const HOST_KERNEL = "a container has its host's kernel and settings";

export const REQUIREMENTS = {
  "redis-server": { what: "redis-server", get: apt("redis-server"), found: () => runs("redis-server", "--version") },
  openssl: { what: "openssl", get: apt("openssl"), found: () => runs("openssl", "version") },
  haproxy: { what: "haproxy", get: apt("haproxy"), found: () => runs("haproxy", "-v") },
  nginx: { what: "nginx", get: apt("nginx-light"), found: () => runs("nginx", "-v") },
  prometheus: {
    what: "prometheus and promtool",
    get: apt("prometheus"),
    found: () => runs("prometheus", "--version") && runs("promtool", "--version"),
  },
  helm: {
    what: "helm",
    get: ".ci/kubernetes-tools, on Linux on x64, or https://helm.sh/docs/intro/install",
    found: () => runs("helm", "version"),
  },
  "kubernetes-types": {
    what: "Kubernetes' types",
    get: ".ci/kubernetes-tools",
    found: () => existsSync(join(KUBERNETES_TOOLS, "node_modules/kubernetes-models")),
  },
  curl: {
    what: "bash and curl",
    get: apt("curl"),
    found: () => runs("bash", "--version") && runs("curl", "--version"),
  },
  chromium: { what: BROWSER, get: apt("chromium"), found: () => existsSync(BROWSER) },
  swiftshader: {
    what: `SwiftShader in ${SWIFTSHADER}`,
    get: apt("chromium"),
    found: () =>
      ["libvulkan.so.1", "libvk_swiftshader.so", "vk_swiftshader_icd.json"].every((file) =>
        existsSync(join(SWIFTSHADER, file)),
      ),
  },
  lavapipe: {
    what: `Mesa's lavapipe, and the Vulkan loader in ${SWIFTSHADER}`,
    get: ".ci/lavapipe, on Debian on x64, and apt-get install chromium",
    found: () => existsSync(join(LAVAPIPE, "lavapipe.json")) && existsSync(join(SWIFTSHADER, "libvulkan.so.1")),
    mayLackInCi: ".ci/lavapipe fails where it should be had and is not",
  },
  "qemu-user": { what: "qemu-x86_64", get: apt("qemu-user"), found: () => runs("qemu-x86_64", "--version") },
  cc: {
    what: "a C compiler on Linux",
    get: apt("gcc libc6-dev"),
    found: () => process.platform === "linux" && runs("cc", "--version"),
    mayLackInCi: "that no script of the replicas asks for the time is tested there",
  },
  "python-openai": {
    what: "Python with openai",
    get: "pip install openai, and PYTHON=... if its interpreter is not python3",
    found: () => runs(PYTHON, "-c", "import openai"),
    mayLackInCi: "the same requests are sent by the client for JavaScript",
  },
  "lm-eval": {
    what: "Python with lm_eval",
    get: 'pip install "lm_eval[api]" transformers, and PYTHON=... if its interpreter is not python3',
    found: () => runs(PYTHON, "-c", "from lm_eval.models.openai_completions import LocalCompletionsAPI"),
    mayLackInCi: "a test of the route sends what it sends",
  },
  "systemd-analyze": {
    what: "systemd-analyze",
    get: apt("systemd"),
    found: () => runs("systemd-analyze", "--version"),
    mayLackInCi: "containers have no systemd",
  },
  prlimit: {
    what: "prlimit, which may limit a process's files",
    get: apt("util-linux"),
    found: () => runs("prlimit", "--pid", String(process.pid), "--fsize=unlimited:"),
  },
  mount: { what: "leave to mount a tmpfs", get: "run as root, in a container with CAP_SYS_ADMIN", found: canMount },
  "open-checkout": {
    what: "that, of root's, other users may read the checkout and Node",
    get: "chmod o+rx the folders above them, or run as another user",
    found: () => process.getuid?.() !== 0 || runsAsNobody(),
  },
  "thread-time": {
    what: "Linux or Node 23.9, which tell the processor time of a thread",
    get: "run on Linux",
    found: () => process.platform === "linux" || "threadCpuUsage" in process,
  },
  linux: { what: "Linux", get: "run on Linux", found: () => process.platform === "linux" },
  "socket-filter": {
    what: "Linux, and leave to attach a filter to a socket",
    get: "run as root, or where no sandbox refuses it",
    found: canFilter,
  },
  "linux-x64": {
    what: "Linux on x64",
    get: "run on Linux on x64",
    found: () => process.platform === "linux" && process.arch === "x64",
    mayLackInCi: "ONNX Runtime has CUDA for x64 only; everything else runs on arm64, too",
  },
  "no-cuda": {
    what: "a machine without CUDA, to see what is said of it",
    get: "run without ONNXRUNTIME_NODE_INSTALL=cuda12, or without an NVIDIA driver",
    found: () => examineCuda(defaultLibraryPath()).missing.length > 0,
  },
  "no-cuda-provider": {
    what: "an ONNX Runtime without its CUDA provider",
    get: "npm ci without ONNXRUNTIME_NODE_INSTALL=cuda12",
    found: () => !existsSync(join(dirname(defaultLibraryPath()), "libonnxruntime_providers_cuda.so")),
  },
  ipv6: {
    what: "the address ::1",
    get: "sysctl net.ipv6.conf.lo.disable_ipv6=0",
    found: () => Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === "::1")),
    mayLackInCi: "containers often have no IPv6",
  },
  "huge-pages": {
    what: "Linux 6.1 or later with transparent huge pages",
    get: `echo madvise > ${HUGE_PAGES}`,
    found: hasHugePages,
    mayLackInCi: HOST_KERNEL,
  },
  "huge-pages-on-request": {
    what: "memory that lies in huge pages only where asked for",
    get: `echo madvise > ${HUGE_PAGES}`,
    found: () => hasHugePages() && !readFileSync(HUGE_PAGES, "utf8").includes("[always]"),
    mayLackInCi: HOST_KERNEL,
  },
  "signed-integers": {
    what: "a processor that multiplies unsigned by signed 8-bit integers exactly",
    get: "run on x86 with VNNI, or on arm64",
    // Only a trial tells (src/model/integer-kernels.ts); tests do that.
    found: () => true,
    mayLackInCi: "what is exact on a processor without VNNI is tested there",
  },
  "fuzz-runs": {
    what: "as many random cases as by default",
    get: "FUZZ_RUNS=10000 or more",
    found: () => Number(process.env["FUZZ_RUNS"] ?? Infinity) >= 10_000,
  },
} satisfies Record<string, Requirement>;

export type RequirementName = keyof typeof REQUIREMENTS;

const found = new Map<RequirementName, boolean>();

export function has(name: RequirementName): boolean {
  if (withheld().includes(name)) return false;
  const known = found.get(name) ?? REQUIREMENTS[name].found();
  found.set(name, known);
  return known;
}

/** Why tests that need all of these are skipped here, for tap's `skip`; false if nothing is missing. */
export function lacking(...names: RequirementName[]): string | false {
  const missing = names.filter((name) => !has(name));
  return missing.length > 0 && missing.map(reasonFor).join("; ");
}

/** "needs haproxy: apt-get install haproxy" */
export function reasonFor(name: RequirementName): string {
  const { what, get } = REQUIREMENTS[name];
  return `needs ${what}: ${get}`;
}

/**
 * Call at the head of a file all of whose tests need these: if one is missing, the file is skipped and its process ends
 * here.
 */
export function skipFileWithout(t: Test, ...names: RequirementName[]): void {
  const reason = lacking(...names);
  if (reason === false) return;
  t.plan(0, reason);
  process.exit(0);
}

function withheld(): string[] {
  const names = (process.env["PREFIXD_TEST_WITHOUT"] ?? "").split(",").filter((name) => name !== "");
  for (const name of names)
    if (!Object.hasOwn(REQUIREMENTS, name))
      throw new Error(`PREFIXD_TEST_WITHOUT: ${name} is none of ${Object.keys(REQUIREMENTS).join(", ")}`);
  return names;
}

function runs(program: string, ...args: string[]): boolean {
  return spawnSync(program, args, { env: { ...process.env, PATH: SYSTEM_PATH } }).status === 0;
}

function canFilter(): boolean {
  if (process.platform !== "linux") return false;
  const libc = koffi.load(null);
  const [ipv4, stream] = [2, 1];
  const fd = libc.func("int socket(int, int, int)")(ipv4, stream, 0) as number;
  const filtered = stopHandshakes({ _handle: { fd } } as unknown as Server);
  libc.func("int close(int)")(fd);
  return filtered;
}

function canMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), "prefixd-mount-"));
  const mounted = runs("mount", "-t", "tmpfs", "tmpfs", folder);
  if (mounted) spawnSync("umount", ["-l", folder]);
  rmdirSync(folder);
  return mounted;
}

/** As the tests run `prefixd`: from the checkout. */
function runsAsNobody(): boolean {
  const [program, operands] = bareNode(...programArguments(), "--version");
  return spawnSync(program, operands, { cwd: ROOT, uid: NOBODY, gid: NOBODY }).status === 0;
}

/** Whether MADV_COLLAPSE (Linux 6.1) can work here. */
function hasHugePages(): boolean {
  try {
    const [major, minor] = readFileSync("/proc/sys/kernel/osrelease", "utf8").split(".").map(Number) as [
      number,
      number,
    ];
    return (major > 6 || (major === 6 && minor >= 1)) && !readFileSync(HUGE_PAGES, "utf8").includes("[never]");
  } catch {
    return false;
  }
}
