/** `prefixd`, and other programs of Node, as processes. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";

export const ROOT = new URL("../..", import.meta.url).pathname;
const BUILT = join(ROOT, "dist/cli/main.js");

let arguments_: readonly string[] | null = null;

/** Node's arguments for it: the build, as `npm test` makes it; where that is older than the sources, those through tsx, which starts in twice the time. */
export function programArguments(): readonly string[] {
  return (arguments_ ??= isBuilt() ? [BUILT] : ["--import", "tsx", join(ROOT, "src/cli/main.ts")]);
}

function isBuilt(): boolean {
  return spawnSync(...bareNode(join(ROOT, "tools/build.mjs"), "--check")).status === 0;
}

/**
 * A program and its arguments that run Node without what the test runner adds to each of its processes, even where it is not in the
 * environment given: it would end on SIGXFSZ, write into a folder of its own, and start in twice the time.
 */
export const bareNode = (...args: readonly string[]): readonly [program: string, operands: readonly string[]] => [
  "env",
  ["-u", "NODE_OPTIONS", process.execPath, ...args],
];
