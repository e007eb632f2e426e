/** What starting costs: which modules a command loads, and what is compiled before. */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { ROOT } from "../support/program.ts";
import { runCli } from "../support/server.ts";

t.setTimeout(120_000);

/** The files of ours and of packages that a command has loaded, as V8 counts them. */
async function modulesOf(t: Test, ...args: string[]): Promise<string[]> {
  const folder = mkdtempSync(join(t.testdir(), "coverage."));
  t.equal(await runCli(args, { NODE_V8_COVERAGE: folder }).exited, 0);
  const reports = readdirSync(folder).map(
    (name) => JSON.parse(readFileSync(join(folder, name), "utf8")) as { result: { url: string }[] },
  );
  const files = reports
    .flatMap(({ result }) => result.map(({ url }) => url))
    .filter((url) => url.startsWith(`file://${ROOT}`))
    .map((url) => url.slice(`file://${ROOT}`.length));
  // tsx and its packages are not the program's.
  return files.filter((file) => !/^node_modules\/(tsx|esbuild|@esbuild|get-tsconfig|resolve-pkg-maps)\//.test(file));
}

for (const flag of ["--version", "--help"]) {
  t.test(`${flag} loads no package`, async (t) => {
    t.same(
      (await modulesOf(t, flag)).map((file) => file.replace(/^(src|dist)\/|\.[jt]s$/g, "")),
      ["cli/main", "one-line", "version"],
    );
  });
}

t.test("serve --help loads nothing that serves", async (t) => {
  const modules = await modulesOf(t, "serve", "--help");
  t.ok(modules.some((file) => /config\.[jt]s$/.test(file)));
  if (modules.includes("dist/config.js"))
    t.notOk(
      modules.some((file) => file.startsWith("node_modules/typebox/")),
      "the build has TypeBox in one file",
    );
  t.same(
    modules.filter((file) =>
      /node_modules\/(fastify|koffi|onnxruntime-node|ioredis|lmdb|pino|prom-client)\/|(src|dist)\/(main|engine|http|model)\b/.test(
        file,
      ),
    ),
    [],
  );
});

t.test("client commands load no schemas", async (t) => {
  for (const command of ["push", "users"]) {
    const modules = await modulesOf(t, command, "--help");
    t.ok(modules.some((file) => file.includes(`cli/${command}`)));
    t.same(
      modules.filter((file) => /node_modules|^(src|dist)\/config\./.test(file)),
      [],
    );
  }
});

t.test("npm run build compiles only when something has changed", async (t) => {
  const copy = mkdtempSync(join(t.testdir(), "copy."));
  for (const file of ["package.json", "tsconfig.json", "tools/build.mjs"]) cpSync(join(ROOT, file), join(copy, file));
  symlinkSync(join(ROOT, "node_modules"), join(copy, "node_modules"));
  // Bundled in every build.
  cpSync(join(ROOT, "src/console"), join(copy, "src/console"), { recursive: true });
  mkdirSync(join(copy, "src", "deep"));
  const [source, output] = [join(copy, "src", "deep", "a.ts"), join(copy, "dist", "deep", "a.js")];
  const build = (...args: string[]): number | null =>
    spawnSync(process.execPath, [join(copy, "tools/build.mjs"), ...args]).status;
  const touched = "// somebody was here\n";

  writeFileSync(source, "export const a: number = 1;\n");
  t.equal(build("--check"), 1);
  t.equal(build(), 0);
  t.match(readFileSync(output, "utf8"), /\ba = 1;\n/);
  t.equal(build("--check"), 0);

  writeFileSync(output, touched);
  t.equal(build(), 0);
  t.equal(readFileSync(output, "utf8"), touched, "nothing has changed, nothing is done");

  writeFileSync(source, "export const a: number = 2;\n");
  t.equal(build("--check"), 1);
  t.equal(build(), 0);
  t.match(readFileSync(output, "utf8"), /\ba = 2;\n/);

  writeFileSync(join(copy, "src", "b.ts"), "export const = ;\n");
  t.not(build(), 0, "what cannot be compiled");
  t.equal(build("--check"), 1);
  rmSync(join(copy, "src", "b.ts"));
  rmSync(join(copy, "dist"), { recursive: true });
  t.equal(build(), 0);
  t.match(readFileSync(output, "utf8"), /\ba = 2;\n/, "what was deleted is there again");
});
