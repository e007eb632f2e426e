/** What WebGPU needs on Linux: a Vulkan loader, a driver manifest (ICD), and access to the GPU's device file. */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { libraryProblem } from "../runtime/ort-api.ts";
import type { Findings } from "./findings.ts";

type Environment = Readonly<Record<string, string | undefined>>;

const LOADER = "libvulkan.so.1";
/**
 * The first overrides the second, which older loaders use; both override the folders. Source: Vulkan-Loader,
 * LoaderDriverInterface.md
 */
const OVERRIDES = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"];
const RENDER_NODES = "/dev/dri";

export function examineVulkan(env: Environment = process.env): Findings {
  if (process.platform !== "linux") return { facts: [`Vulkan: not needed on ${process.platform}`], missing: [] };
  const facts: string[] = [];
  const missing: string[] = [];

  const loader = libraryProblem(LOADER);
  facts.push(`Vulkan loader: ${loader === null ? LOADER : `none (${loader})`}`);
  if (loader !== null) missing.push(`There is no Vulkan loader: apt install libvulkan1.`);

  const override = OVERRIDES.find((name) => env[name]);
  const manifests =
    override === undefined ? manifestsIn(folders(env)) : env[override]!.split(":").filter((path) => path !== "");
  const drivers = manifests.map((path) => ({ path, problem: manifestProblem(path) }));
  facts.push(
    `Vulkan drivers${override === undefined ? "" : ` (${override})`}: ${drivers.map(({ path, problem }) => path + (problem === null ? "" : ` (${problem})`)).join(", ") || "none"}`,
  );
  if (!drivers.some(({ problem }) => problem === null)) {
    missing.push(
      override === undefined
        ? "There is no Vulkan driver: NVIDIA's driver brings one (in a container: NVIDIA_DRIVER_CAPABILITIES=all); for AMD and Intel apt install mesa-vulkan-drivers."
        : `${override} names no existing driver: correct or unset it.`,
    );
  }
  facts.push(`XDG_RUNTIME_DIR: ${env["XDG_RUNTIME_DIR"] || "not set"}`);
  const closed = renderNodes().filter((path) => !mayUse(path));
  if (closed.length > 0) missing.push(`No access to ${closed.join(", ")}: add the user to the group render.`);
  return { facts, missing };
}

/** Where the loader looks for manifests on Linux. */
function folders(env: Environment): string[] {
  const config = [
    env["XDG_CONFIG_HOME"] || join(homedir(), ".config"),
    ...(env["XDG_CONFIG_DIRS"] || "/etc/xdg").split(":"),
    "/etc",
  ];
  const data = [
    env["XDG_DATA_HOME"] || join(homedir(), ".local/share"),
    ...(env["XDG_DATA_DIRS"] || "/usr/local/share:/usr/share").split(":"),
  ];
  return [...new Set([...config, ...data].filter((path) => path !== "").map((path) => join(path, "vulkan", "icd.d")))];
}

function manifestsIn(dirs: readonly string[]): string[] {
  return dirs
    .filter((dir) => existsSync(dir))
    .flatMap((dir) =>
      readdirSync(dir)
        .filter((name) => name.endsWith(".json"))
        .sort()
        .map((name) => join(dir, name)),
    );
}

/**
 * What is wrong with a manifest; null if it and its library exist. A library without a path is left to the system to
 * find.
 */
function manifestProblem(path: string): string | null {
  if (!existsSync(path)) return "not there";
  try {
    const library = (JSON.parse(readFileSync(path, "utf8")) as { ICD: { library_path: string } }).ICD.library_path;
    if (!library.includes("/")) return null;
    return existsSync(isAbsolute(library) ? library : resolve(dirname(path), library))
      ? null
      : `its library ${library} is not there`;
  } catch {
    return "not readable";
  }
}

function renderNodes(): string[] {
  return existsSync(RENDER_NODES)
    ? readdirSync(RENDER_NODES)
        .filter((name) => name.startsWith("renderD"))
        .map((name) => join(RENDER_NODES, name))
    : [];
}

function mayUse(path: string): boolean {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return true;
  } catch {
    return false;
  }
}
