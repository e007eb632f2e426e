import { readFileSync } from "node:fs";
import t from "tap";
import { repositoryFile } from "./support/docs-block.ts";

interface Lock {
  readonly packages: Readonly<Record<string, { readonly hasInstallScript?: boolean; readonly resolved?: string }>>;
}
const json = (path: string): unknown => JSON.parse(readFileSync(repositoryFile(path), "utf8"));

for (const folder of [".", "bench/peers", "tools/openapi-clients", "tools/kubernetes"]) {
  const { packages } = json(`${folder}/package-lock.json`) as Lock;

  t.test(`${folder}: no install script runs, and npm is told so about each`, async (t) => {
    const named = Object.entries(packages).flatMap(([path, { hasInstallScript }]) =>
      hasInstallScript ? [path.replace(/^.*node_modules\//, "")] : [],
    );
    const optional = ["fsevents"]; // For macOS only; npm asks about packages that are installed.
    const { allowScripts } = json(`${folder}/package.json`) as { allowScripts: object };
    t.same(
      allowScripts,
      Object.fromEntries([...new Set(named)].filter((name) => !optional.includes(name)).map((name) => [name, false])),
      "npm 11 and later",
    );
    t.match(readFileSync(repositoryFile(`${folder}/.npmrc`), "utf8"), /^ignore-scripts=true$/m, "npm 10");
  });

  t.test(`${folder}: the lock file is for any registry`, async (t) => {
    t.same(
      Object.values(packages).flatMap(({ resolved }) => (resolved === undefined ? [] : [resolved])),
      [],
    );
  });
}
