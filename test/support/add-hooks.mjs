/** Hooks of Node's module loader, on every Node. In plain JavaScript, since the types of Node 20 know half of it. */
import * as modules from "node:module";

/** Adds a module's `resolve`: in this thread where Node can (tap waits for 24.13, too), else in the loader's. */
export async function addHooks(url) {
  const [major, minor] = process.versions.node.split(".").map(Number);
  if (major > 24 || (major === 24 && minor >= 13)) modules.registerHooks(await import(url));
  else modules.register(url);
}
