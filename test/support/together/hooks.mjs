/** For module.registerHooks, and for module.register: in test files and what they share, "tap" is tap.mjs. */
const OWN = new URL("./", import.meta.url).href;
const TESTS = new URL("../../", import.meta.url).href;
const TAP = new URL("tap.mjs", OWN).href;

export function resolve(specifier, context, nextResolve) {
  const { parentURL = "" } = context;
  return specifier === "tap" && parentURL.startsWith(TESTS) && !parentURL.startsWith(OWN)
    ? nextResolve(TAP, context)
    : nextResolve(specifier, context);
}
