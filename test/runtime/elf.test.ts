import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { neededLibraries } from "../../src/runtime/elf.ts";
import { defaultLibraryPath } from "../../src/runtime/ort-api.ts";
import { elfNeeding } from "../support/elf.ts";
import { lacking } from "../support/requirements.ts";

t.test("libraries in the file's order", async (t) => {
  const dir = t.testdir();
  const names = ["libcudart.so.13", "libm.so.6", "libcublas.so.13"];
  writeFileSync(join(dir, "some.so"), elfNeeding(names));
  t.same(neededLibraries(join(dir, "some.so")), names);
});

t.test("a real one", { skip: lacking("linux") }, async (t) => {
  const names = neededLibraries(defaultLibraryPath());
  t.ok(names.includes("libc.so.6"), names.join(", "));
  t.ok(names.every((name) => /^[\w.+-]+$/.test(name)));
});

t.test("a file that is not ELF, or is cut short, needs no libraries", async (t) => {
  const whole = elfNeeding(["libm.so.6"]);
  const dir = t.testdir({ text: "text", empty: "" });
  for (const name of ["text", "empty"]) t.same(neededLibraries(join(dir, name)), []);
  for (let length = 0; length < whole.length; length += 7) {
    writeFileSync(join(dir, "short.so"), whole.subarray(0, length));
    t.doesNotThrow(() => neededLibraries(join(dir, "short.so")), `${length} bytes`);
  }
  t.throws(() => neededLibraries(join(dir, "nowhere")), { code: "ENOENT" });
});
