import { spawnSync } from "node:child_process";

const ROOT = new URL("../..", import.meta.url).pathname;

/** What `npm start` runs. */
export const CLI = `${ROOT}dist/cli/main.js`;

/** Compiles the sources: what is measured of a server process is what is there now. */
export function build(): void {
  if (spawnSync("npm", ["run", "--silent", "build"], { cwd: ROOT, stdio: "inherit" }).status !== 0) throw new Error("npm run build failed");
}
