/**
 * `npm run bench -- NAME...`: runs benchmarks one after another; without a name, all of them. They measure the build, which is what is
 * shipped.
 */
import { readdirSync } from "node:fs";
import { spawnSync } from "node:child_process";

const here = new URL(".", import.meta.url).pathname;
const all = readdirSync(here)
  .filter((file) => file.endsWith(".ts") && !file.endsWith(".tmp.ts") && file !== "run.ts")
  .map((file) => file.slice(0, -3));
const names = process.argv.slice(2);
for (const name of names) if (!all.includes(name)) throw new Error(`no such benchmark: ${name} (${all.join(", ")})`);
const sources =
  Number(process.versions.node.split(".")[0]) >= 24 ? "--disable-warning=ExperimentalWarning" : "--import=tsx";
const built = `--import=${new URL("../test/support/built.mjs", import.meta.url).pathname}`;
for (const name of names.length > 0 ? names : all) {
  const { status } = spawnSync(process.execPath, [sources, built, `${here}${name}.ts`], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
