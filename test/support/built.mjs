/**
 * For `node --import`, as `npm test` does: what tests import of src/ is the build's (tools/build.mjs), which needs no compiling, in its
 * threads and processes neither, and has TypeBox in one file instead of 680.
 */
import { addHooks } from "./add-hooks.mjs";

await addHooks(new URL("built-hooks.mjs", import.meta.url));
