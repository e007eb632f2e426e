import { cpSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import t from "tap";
import { adapterFolders, readAdapterFolder } from "../../src/prefixes/folder.ts";

t.test("a folder of adapters, and what else lies there", async (t) => {
  const dir = t.testdir();
  const adapter = (name: string): void => cpSync("prefixes/intent", join(dir, name), { recursive: true });
  for (const name of ["b", "a.b-1", "my adapter", "_draft", "été", ".hidden", "x".repeat(129)]) adapter(name);
  symlinkSync(resolve("prefixes/e2e"), join(dir, "linked"));
  symlinkSync("linked", join(dir, "linked-twice"));
  symlinkSync(join(dir, "gone"), join(dir, "dangling"));
  symlinkSync("circle-2", join(dir, "circle-1"));
  symlinkSync("circle-1", join(dir, "circle-2"));
  symlinkSync(".", join(dir, "itself"));
  mkdirSync(join(dir, "__pycache__"));
  mkdirSync(join(dir, ".git"));
  mkdirSync(join(dir, "dangling-config"));
  symlinkSync("gone", join(dir, "dangling-config", "adapter_config.json"));
  for (const file of ["README.md", ".gitignore"]) writeFileSync(join(dir, file), "");
  const { names, leftOut } = await adapterFolders(dir);
  t.same(names, ["a.b-1", "b", "dangling-config", "linked", "linked-twice"]);
  const badName = { level: "warn", reason: /^its name cannot be a prefix's: 1 to 128 characters/ };
  const hidden = { level: "debug", reason: "it is hidden" };
  const found = Object.fromEntries(leftOut.map(({ name, ...why }) => [name, why]));
  t.match(found, {
    "my adapter": badName,
    _draft: badName,
    été: badName,
    ["x".repeat(129)]: badName,
    ".hidden": hidden,
    ".git": hidden,
    ".gitignore": hidden,
    dangling: { level: "warn", reason: "it is a symbolic link to nothing" },
    "circle-1": { level: "warn", reason: "it is a symbolic link that leads back to itself" },
    "circle-2": { level: "warn", reason: "it is a symbolic link that leads back to itself" },
    itself: { level: "warn", reason: "it has no adapter_config.json" },
    __pycache__: { level: "warn", reason: "it has no adapter_config.json" },
    "README.md": { level: "info", reason: "it is not a folder" },
  });
  t.equal(leftOut.length, 13);
  await t.rejects(readAdapterFolder(join(dir, "dangling-config")), {
    code: "upload_incomplete",
    message: /has no readable adapter_model\.safetensors/,
  });
  const own = await adapterFolders(resolve("prefixes/intent"));
  t.match(own, {
    names: [],
    leftOut: [{ name: "adapter_config.json", level: "warn", reason: /this folder is itself an adapter's/ }, {}, {}],
  });
  await t.rejects(adapterFolders(join(dir, "README.md")), { code: "ENOTDIR" });
});

t.test("what is missing in an adapter's folder", async (t) => {
  const dir = t.testdir();
  cpSync("prefixes/intent", dir, { recursive: true });
  t.match(await readAdapterFolder(dir), { kind: "peft" });
  renameSync(join(dir, "adapter_model.safetensors"), join(dir, "adapter_model.bin"));
  const refused = (message: string): Promise<unknown> =>
    t.rejects(readAdapterFolder(dir), { code: "upload_incomplete", message });
  await refused(
    `${dir} has adapter_model.bin instead of adapter_model.safetensors: pickle files can run code and are never read. Save the adapter with safe_serialization=True.`,
  );
  rmSync(join(dir, "adapter_model.bin"));
  await refused(`${dir} has no readable adapter_model.safetensors.`);
  rmSync(join(dir, "adapter_config.json"));
  await refused(`${dir} has no readable adapter_config.json.`);
  for (const nothing of [join(dir, "nowhere"), join(dir, "train.json")]) {
    await t.rejects(readAdapterFolder(nothing), {
      code: "upload_incomplete",
      message: `${nothing} is not a folder that can be read.`,
    });
  }
});
