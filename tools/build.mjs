/**
 * `npm run build`: compiles src/ into dist/, file by file, when anything that decides what comes out has changed since it was last done.
 * TypeBox comes in one file (dist/packages): loading its 680 takes a third of what every start takes. The browser's part, src/console/,
 * becomes dist/console: one script and one style sheet, named by their content. Types are checked elsewhere (`npm run typecheck`).
 * `--check` compiles nothing: exit code 0 if dist/ is what src/ says, else 1.
 * In plain JavaScript, since it runs before anything is compiled.
 */
import { createHash } from "node:crypto";
import { copyFileSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const PACKED = "typebox";
/** What src/console/ is bundled with. */
const BROWSER_PACKAGES = ["preact", "uplot"];
const SETTINGS = [
  "tsconfig.json",
  "tools/build.mjs",
  ...["esbuild", PACKED, ...BROWSER_PACKAGES].map((name) => `node_modules/${name}/package.json`),
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
    entryPoints: sources().filter((path) => !path.startsWith(join("src", "console") + sep)),
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
    banner: { js: licences([PACKED]) },
  });
  await bundleConsole(build);
}

/** One page, which names its script and its style sheet, `main.js` and `main.css`, by what they are called here. */
async function bundleConsole(build) {
  const [from, to] = [join(ROOT, "src/console"), join(ROOT, "dist/console")];
  rmSync(to, { recursive: true, force: true });
  const { metafile } = await build({
    absWorkingDir: ROOT,
    bundle: true,
    minify: true,
    format: "esm",
    platform: "browser",
    target: ["chrome123", "firefox120", "safari17.5"],
    jsx: "automatic",
    jsxImportSource: "preact",
    logLevel: "warning",
    legalComments: "none",
    entryPoints: ["src/console/main.tsx"],
    outdir: "dist/console/assets",
    entryNames: "[name]-[hash]",
    metafile: true,
    banner: { js: licences(BROWSER_PACKAGES) },
  });
  const names = Object.keys(metafile.outputs).map((path) => basename(path));
  const page = readFileSync(join(from, "index.html"), "utf8").replace(/\bmain(\.js|\.css)/g, (_, extension) => {
    return `assets/${names.find((name) => name.endsWith(extension))}`;
  });
  writeFileSync(join(to, "index.html"), page);
  copyFileSync(join(from, "icon.svg"), join(to, "icon.svg"));
}

/** The licences of packages whose code comes with ours. */
function licences(packages) {
  const texts = packages.map((name) => {
    const folder = join(ROOT, "node_modules", name);
    const file = readdirSync(folder).find((one) => /^license/i.test(one));
    return `${name}\n${readFileSync(join(folder, file), "utf8")}`;
  });
  return `/*\n${texts.join("\n")}*/`;
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
