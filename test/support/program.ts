/** `prefixd`, and other programs of Node, as processes. */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export const ROOT = new URL("../..", import.meta.url).pathname;
const BUILT = join(ROOT, "dist/cli/main.js");

let arguments_: readonly string[] | null = null;

/**
 * Node's arguments for it: the build, as `npm test` makes it; where that is older than the sources, those,
 * which start in twice the time.
 */
export function programArguments(): readonly string[] {
  return (arguments_ ??= isBuilt() ? [BUILT] : [...SOURCES, join(ROOT, "src/cli/main.ts")]);
}

function isBuilt(): boolean {
  return spawnSync(...bareNode(join(ROOT, "tools/build.mjs"), "--check")).status === 0;
}

const BUILT_HOOKS = "test/support/built.mjs";

/**
 * Node's arguments that let it take the sources, for `bareNode`: as test/run.ts does, without tsx from Node 24 on, and src/ from the build
 * where this process has it from there.
 */
export const SOURCES: readonly string[] = [
  Number(process.versions.node.split(".")[0]) >= 24 ? "--disable-warning=ExperimentalWarning" : "--import=tsx",
  ...(process.execArgv.some((argument) => argument.endsWith(BUILT_HOOKS))
    ? [`--import=${join(ROOT, BUILT_HOOKS)}`]
    : []),
];

/**
 * A program and arguments that run Node without the options that the test runner adds to each of its processes, even if
 * they are not in the given environment: with them Node would end on SIGXFSZ, write to a folder of its own, and take
 * twice as long to start.
 */
export const bareNode = (...args: readonly string[]): readonly [program: string, operands: readonly string[]] => [
  "env",
  ["-u", "NODE_OPTIONS", process.execPath, ...args],
];

/** Makes a folder for PATH in which `npx prefixd` runs this checkout. */
export function npxFolder(path: string): string {
  mkdirSync(path);
  const [program, operands] = bareNode(...programArguments());
  const quoted = [program, ...operands].map((word) => `'${word}'`).join(" ");
  const script = `#!/bin/sh\n[ "$1" = prefixd ] && shift && exec ${quoted} "$@"\nexit 9\n`;
  writeFileSync(join(path, "npx"), script, { mode: 0o755 });
  return path;
}
