/**
 * How much the tests try. `npm test` tries a part of each kind, to take minutes; PREFIXD_TESTS=long, as .ci/run sets it, tries all: more
 * mixes, cases and rounds.
 */
const chosen = process.env["PREFIXD_TESTS"] ?? "short";
if (chosen !== "short" && chosen !== "long") throw new Error(`PREFIXD_TESTS=${chosen}: short or long`);

/** What a test takes in the short and in the long form. */
export const effort = <T>({ short, long }: { readonly short: T; readonly long: T }): T =>
  chosen === "long" ? long : short;
