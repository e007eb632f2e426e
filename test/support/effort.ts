/**
 * How much the tests try. `npm test` runs part of each kind, in minutes; PREFIXD_TESTS=long, as set by .ci/run, runs
 * all: more mixes, cases and rounds.
 */
const chosen = process.env["PREFIXD_TESTS"] ?? "short";
if (chosen !== "short" && chosen !== "long") throw new Error(`PREFIXD_TESTS=${chosen}: short or long`);

/** Selects a test's value for the short or the long form. */
export const effort = <T>({ short, long }: { readonly short: T; readonly long: T }): T =>
  chosen === "long" ? long : short;
