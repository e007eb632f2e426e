/**
 * Runs several test files in this process, one after another, each as a test named like it: of most, the start of a process and
 * loading the sources takes longer than all that they try. Which ones: plan.ts.
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import t from "tap";
import { addHooks } from "../add-hooks.mjs";
import { addCost, spent } from "../costs.mjs";

export async function together(files) {
  await addHooks(new URL("hooks.mjs", import.meta.url));
  const { setCurrent } = await import("./tap.mjs");
  for (const file of files) {
    const before = spent();
    await t.test(file, async (t) => {
      // As if the file ran alone: a test's folder is named by all that it is in, and a name may be only so long.
      t.testdirName = resolve(".tap/fixtures", file.replace(/[^a-zA-Z0-9._-]+/g, "-"));
      setCurrent(t);
      await import(pathToFileURL(resolve(file)).href);
    });
    addCost(`  ${file}`, spent() - before);
  }
  setCurrent(t);
}
