/**
 * `npm run build`: compiles src/ into dist/, file by file, when anything that decides what comes out has changed since it was last done.
 * TypeBox comes in one file (dist/packages): loading its 680 takes a third of what every start takes. Types are checked elsewhere
 * (`npm run typecheck`). `--check` compiles nothing: exit code 0 if dist/ is what src/ says, else 1.
 * In plain JavaScript, since it runs before anything is compiled.
 */
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PACKED = "typebox";
const SETTINGS = [
  "tsconfig.json",
  "tools/build.mjs",
  "node_modules/esbuild/package.json",
  `node_modules/${PACKED}/package.json`,
];
/** What the last build was made from. */
const STAMP = join(ROOT, "dist", "built-from");

const from = fingerprint();
const built = existsSync(STAMP) && readFileSync(STAMP, "utf8") === from;
if (process.argv.includes("--check")) {
  process.exitCode = built ? 0 : 1;
} else if (!built) {
  rmSync(STAMP, { force: true });
  try {
    await compile();
    writeFileSync(STAMP, from);
  } catch {
    // esbuild has said why.
    process.exitCode = 1;
  }
}

async function compile() {
  const { build } = await import("esbuild");
  const options = {
    absWorkingDir: ROOT,
    bundle: true,
    format: "esm",
    platform: "node",
    target: "node20",
    logLevel: "warning",
  };
  /** Those of TypeBox that src/ imports: "typebox/value". */
  const packed = new Set();
  const fileOf = (module) => module.replaceAll("/", "-");
  const eachFileByItself = {
    name: "each file by itself",
    setup({ onResolve }) {
      onResolve({ filter: /./ }, ({ path, kind, resolveDir }) => {
        if (kind === "entry-point") return undefined;
        if (path.split("/")[0] !== PACKED) return { path: path.replace(/^(\..*)\.ts$/, "$1.js"), external: true };
        packed.add(path);
        return { path: `./${relative(resolveDir, join(ROOT, "src/packages", `${fileOf(path)}.js`))}`, external: true };
      });
    },
  };
  await build({
    ...options,
    entryPoints: sources(),
    outbase: "src",
    outdir: "dist",
    loader: { ".json": "copy" },
    sourcemap: true,
    plugins: [eachFileByItself],
  });
  await build({
    ...options,
    entryPoints: [...packed].map((module) => ({ in: module, out: fileOf(module) })),
    outdir: "dist/packages",
    splitting: true,
    banner: { js: `/*\n${readFileSync(join(ROOT, "node_modules", PACKED, "license"), "utf8")}*/` },
  });
}

/** Paths from the root on. */
function sources() {
  return readdirSync(join(ROOT, "src"), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.endsWith(".d.ts"))
    .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
    .sort();
}

/** Of names and contents: times of files say nothing after a checkout or a copy. */
function fingerprint() {
  const hash = createHash("sha256");
  for (const path of [...SETTINGS, ...sources()]) {
    const content = readFileSync(join(ROOT, path));
    hash.update(`${path}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}
