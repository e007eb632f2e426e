/**
 * `npm run build`: compiles src/ into dist/ when anything that decides what comes out has changed since it was last done. tsc alone takes
 * ten seconds to find that out, incrementally too. `--check` compiles nothing: exit code 0 if dist/ is what src/ says, else 1.
 * In plain JavaScript, since it runs before anything is compiled.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const SETTINGS = ["tsconfig.json", "tsconfig.build.json", "node_modules/typescript/package.json", "tools/build.mjs"];
/** What the last build was made from. */
const STAMP = join(ROOT, "dist", "built-from");

const from = fingerprint();
const built = existsSync(STAMP) && readFileSync(STAMP, "utf8") === from;
if (process.argv.includes("--check")) {
  process.exitCode = built ? 0 : 1;
} else if (!built) {
  rmSync(STAMP, { force: true });
  const { status } = spawnSync(
    process.execPath,
    [join(ROOT, "node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json", "--noCheck"],
    { cwd: ROOT, stdio: "inherit" },
  );
  if (status === 0) writeFileSync(STAMP, from);
  process.exitCode = status ?? 1;
}

/** Of names and contents: times of files say nothing after a checkout or a copy. */
function fingerprint() {
  const sources = readdirSync(join(ROOT, "src"), { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  const hash = createHash("sha256");
  for (const path of [
    ...SETTINGS.map((name) => join(ROOT, name)),
    ...sources.map((entry) => join(entry.parentPath, entry.name)).sort(),
  ]) {
    const content = readFileSync(path);
    hash.update(`${path.slice(ROOT.length)}\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}
