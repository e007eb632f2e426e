/**
 * For `node --import`: the sources take TypeBox from the build, in one file instead of 680 (tools/build.mjs). `npm test` does this where
 * Node can.
 */
import { existsSync } from "node:fs";
import { registerHooks } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const PACKAGES = join(import.meta.dirname, "../../dist/packages");

registerHooks({
  resolve(specifier, context, nextResolve) {
    if (!/^typebox(\/|$)/.test(specifier)) return nextResolve(specifier, context);
    const file = join(PACKAGES, `${specifier.replaceAll("/", "-")}.js`);
    if (!existsSync(file))
      throw new Error(`${specifier}: not in the build: npm run build, and a file of src/ that imports it`);
    return { url: pathToFileURL(file).href, shortCircuit: true };
  },
});
