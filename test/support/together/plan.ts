/**
 * Which test files share a process in `npm test`: those of most folders, since starting a process and loading the sources takes most of
 * them longer than all that they try. The others run alone, as `npx tap FILE` runs each.
 */
import { mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { ROOT } from "../program.ts";

/** Processes, each with its folders below test/; subfolders are named by themselves. */
const PROCESSES: Readonly<Record<string, readonly string[]>> = {
  engine: ["engine", "engine/beams", "engine/sampling", "engine/scheduling"],
  http: ["http", "http/admin", "http/tokens"],
  "http-connections": ["http/connections"],
  "http-generate": ["http/generate"],
  "http-prefixes": ["http/prefixes"],
  "http-v1": ["http/v1"],
  inputs: ["fuzz", "load"],
  texts: ["formats", "reporting", "structured", "text"],
  users: [".", "generation", "observability", "prefixes", "replicas", "start", "training", "users"],
};

/** Files of these folders that need a process of their own. */
const ALONE: Readonly<Record<string, string>> = {
  "http/worst-bodies.test.ts": "measures turns of the event loop",
  "text/long-texts.test.ts": "measures turns of the event loop",
  "http/generate/answer-limit.test.ts": "measures memory",
  "prefixes/many.test.ts": "measures memory",
  "training/data.test.ts": "measures memory",
  "training/jobs.test.ts": "measures memory",
  ...Object.fromEntries(
    ["fuzz/connections", "fuzz/routes", "load/lumps", "load/run", "load/smoke", "prefixes/crash"].map((path) => [
      `${path}.test.ts`,
      "takes as long as the others of its process together",
    ]),
  ),
};

/** Where the processes' main files are, and what their names in tap's output begin with. */
export const FOLDER = "node_modules/.cache/together";

/** Writes the main files; returns all that tap shall run, as paths from the root on. */
export function planProcesses(): string[] {
  const all = readdirSync(join(ROOT, "test"), { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".test.ts"))
    .sort();
  for (const path of Object.keys(ALONE))
    if (!all.includes(path)) throw new Error(`test/support/together/plan.ts: there is no test/${path}`);
  const folder = join(ROOT, FOLDER);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  // Where what it needs is missing, such a file ends its process (requirements.ts).
  const mayEnd = (path: string): boolean => readFileSync(join(ROOT, "test", path), "utf8").includes("skipFileWithout(");
  const shared = new Set<string>();
  const mains = Object.entries(PROCESSES).map(([name, folders]) => {
    const files = all.filter(
      (path) => folders.includes(join(path, "..")) && !Object.hasOwn(ALONE, path) && !mayEnd(path),
    );
    files.forEach((path) => shared.add(path));
    const paths = files.map((path) => `test/${path}`);
    const run = relative(folder, join(ROOT, "test/support/together/run.mjs"));
    writeFileSync(
      join(folder, `${name}.mjs`),
      `import { together } from "${run}";\n\nawait together(${JSON.stringify(paths, null, 2)});\n`,
    );
    return `${FOLDER}/${name}.mjs`;
  });
  return [...mains, ...all.filter((path) => !shared.has(path)).map((path) => `test/${path}`)];
}
