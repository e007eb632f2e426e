/** `npm run bench -- NAME...`: runs benchmarks one after another; without a name, all of them. */
import { readdirSync } from "node:fs";
import { spawnSync } from "node:child_process";

const here = new URL(".", import.meta.url).pathname;
const all = readdirSync(here)
  .filter((file) => file.endsWith(".ts") && !file.endsWith(".tmp.ts") && file !== "run.ts")
  .map((file) => file.slice(0, -3));
const names = process.argv.slice(2);
for (const name of names) if (!all.includes(name)) throw new Error(`no such benchmark: ${name} (${all.join(", ")})`);
for (const name of names.length > 0 ? names : all) {
  const { status } = spawnSync(process.execPath, ["--import", "tsx", `${here}${name}.ts`], { stdio: "inherit" });
  if (status !== 0) process.exit(status ?? 1);
}
