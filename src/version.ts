import { readFileSync } from "node:fs";

/** The package's version. package.json lies one folder up, from `src/` as from `dist/`. */
export const { version: VERSION } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as {
  version: string;
};
