/** A flag that names what is not there, or a folder in place of a file, is refused at once, in one line with flag and path. */
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { backup } from "../../src/cli/backup.ts";
import { build } from "../../src/cli/build.ts";
import { doctor } from "../../src/cli/doctor.ts";
import { generate } from "../../src/cli/generate.ts";
import { importStore } from "../../src/cli/import.ts";
import { list } from "../../src/cli/list.ts";
import { load } from "../../src/cli/load.ts";
import { pull } from "../../src/cli/pull.ts";
import { push } from "../../src/cli/push.ts";
import { serve } from "../../src/cli/serve.ts";
import { train } from "../../src/cli/train.ts";
import { users } from "../../src/cli/users.ts";
import { lacking, NOBODY } from "../support/requirements.ts";
import { runCli, temporaryFolder } from "../support/server.ts";

for (const name of Object.keys(process.env)) if (name.startsWith("PREFIXD_")) delete process.env[name];
const folder = t.testdir();
const none = join(folder, "none");
const below = join(none, "x");
const file = join(folder, "file");
writeFileSync(file, "{}");
const DATA = "examples/dates.jsonl";

const CASES: readonly [run: (args: readonly string[]) => Promise<void>, args: readonly string[], path: string][] = [
  [importStore, ["--check", "--in"], none],
  [importStore, ["--check", "--in"], folder],
  [backup, ["--out"], below],
  [backup, ["--force", "--out"], folder],
  [train, ["--out", below, "--data"], none],
  [train, ["--out", below, "--data"], folder],
  [train, ["--out", below, "--data", DATA, "--eval"], none],
  [train, ["--out", below, "--data", DATA, "--init-from"], none],
  [train, ["--data", DATA, "--out"], file],
  [load, ["--scenario", "smoke", "--trace"], none],
  [load, ["--scenario", "smoke", "--model-config"], folder],
  [load, ["--scenario", "smoke", "--json"], below],
  [load, ["--scenario", "smoke", "--html"], folder],
  [generate, ["x", "--json-schema"], folder],
  [list, ["--key-file"], none],
  [users, ["list", "--admin-key-file"], folder],
  [serve, ["--prefixes"], none],
  [serve, ["--prefixes"], file],
  [serve, ["--model"], none],
  [serve, ["--chat-template"], folder],
  [serve, ["--audit-log"], below],
  [serve, ["--cache-dir"], file],
  [build, ["--model"], file],
  [doctor, ["--model"], none],
];

for (const [run, args, path] of CASES)
  t.test(`${run.name} ${args.join(" ").replaceAll(folder, "")} ${path.slice(folder.length)}`, async (t) => {
    const error = (await run([...args, path]).catch((error: unknown) => error)) as Error;
    t.equal(error.name, "ConfigError");
    t.match(error.message, `${args.at(-1)!} ${path}: `);
    t.notMatch(error.message, /\bE[A-Z]{3,}\b|\n/);
  });

t.test("a store", async (t) => {
  const message = `--store ${file}: ${file} is not a folder`;
  await t.rejects(serve(["--store", `lmdb:${file}`]), { name: "ConfigError", message });
});

t.test("operands", async (t) => {
  await t.rejects(push([none]), { name: "ConfigError", message: `push ${none}: there is no such file or folder` });
  await t.rejects(push([file]), { name: "ConfigError", message: `push ${file}: it is a file, not a folder` });
  await t.rejects(pull(["x", file]), { name: "ConfigError", message: `pull ${file}: ${file} is not a folder` });
  await t.rejects(load(["--compare", none, none]), { name: "ConfigError", message: `load --compare ${none}: ` });
});

t.test("files and folders without permission", { skip: lacking("open-checkout") }, async (t) => {
  const home = temporaryFolder();
  t.teardown(() => home.remove());
  chmodSync(home.path, 0o755);
  const secret = join(home.path, "secret");
  writeFileSync(secret, "{}", { mode: 0 });
  // Root may read everything.
  const options = process.getuid?.() === 0 ? { uid: NOBODY, gid: NOBODY } : {};
  const command = runCli(["import", "--check", "--in", secret], {}, options);
  t.equal(await command.exited, 2);
  t.match(command.stderr(), `--in ${secret}: permission denied`);
  // Such as a volume that belongs to another user.
  const volume = join(home.path, "volume");
  mkdirSync(volume);
  const cache = join(home.path, "cache");
  mkdirSync(cache);
  chmodSync(cache, 0o777);
  if (process.getuid?.() !== 0) chmodSync(volume, 0o555);
  for (const [args, place] of [
    [["build", "--cache-dir", volume], `--cache-dir ${join(volume, "graphs")}`],
    [["serve", "--cache-dir", join(volume, "cache")], `--cache-dir ${join(volume, "cache")}`],
    [["serve", "--cache-dir", cache, "--store", `lmdb:${join(volume, "store")}`], `--store ${join(volume, "store")}`],
    [["train", "--data", DATA, "--out", join(cache, "out"), "--cache-dir", volume], `--cache-dir ${volume}/graphs`],
    [["train", "--data", DATA, "--out", join(volume, "out")], `--out ${join(volume, "out")}`],
  ] as const) {
    const refused = runCli(args, {}, options);
    t.equal(await refused.exited, 2, args[0]);
    t.match(refused.stderr(), `${place}: permission denied\n`);
  }
});
