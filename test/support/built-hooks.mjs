/** For module.registerHooks, and for module.register: see built.mjs. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../../", import.meta.url).href;

export function resolve(specifier, context, nextResolve) {
  const url = builtUrl(specifier, context.parentURL);
  if (url === null) return nextResolve(specifier, context);
  if (!existsSync(fileURLToPath(url))) throw new Error(`${specifier}: ${url} is not in the build: npm run build`);
  return { url, format: "module", shortCircuit: true };
}

function builtUrl(specifier, parentURL) {
  if (/^typebox(\/|$)/.test(specifier)) return `${ROOT}dist/packages/${specifier.replaceAll("/", "-")}.js`;
  if (!/^(\.|\/|file:).*\.ts$/.test(specifier)) return null;
  const { href } = new URL(specifier, parentURL);
  // The console's modules are in the build as one page's script.
  if (href.startsWith(`${ROOT}src/console/`)) return null;
  return href.startsWith(`${ROOT}src/`) ? href.replace(`${ROOT}src/`, `${ROOT}dist/`).replace(/\.ts$/, ".js") : null;
}
