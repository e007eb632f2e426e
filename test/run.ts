/**
 * `npm test`: runs tap with the arguments given, then lists what was skipped, by reason. Without files among them it runs all, several
 * of them in one process (support/together/plan.ts). With PREFIXD_TEST_COMPLETE=1, as in CI, a skipped test fails the run unless
 * requirements.ts says why CI may lack what it needs.
 */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { byReason, skipsIn, unlisted } from "./support/skips.ts";
import { FOLDER, planProcesses } from "./support/together/plan.ts";

// As installed, tap has the plugin that .taprc leaves out; building it anew takes ten seconds of a processor.
const ofTap = join(import.meta.dirname, "../node_modules/@tapjs/test/test-built/dist/esm/index.js");
if (readFileSync(ofTap, "utf8").includes("@tapjs/typescript")) spawnSync("tap", ["build"], { stdio: "inherit" });

const results = mkdtempSync(join(tmpdir(), "prefixd-tests-"));
process.once("exit", () => rmSync(results, { recursive: true, force: true }));
// Tap reports what was under way when it is stopped. A terminal's ^C reaches it by itself.
process.on("SIGINT", () => {});
for (const signal of ["SIGTERM", "SIGHUP"] as const) process.on(signal, () => void tap.kill(signal));

// From Node 24 on it takes the sources as they are, types and `using`: without tsx, of .taprc, each process starts a second earlier. And
// TypeBox comes from the build.
const sources =
  Number(process.versions.node.split(".")[0]) >= 24 ? "--disable-warning=ExperimentalWarning" : "--import=tsx";
const nodeArguments = [sources, "--import=./test/support/built.mjs", "--import=./test/support/costs.mjs"].map(
  (one) => `--node-arg=${one}`,
);
const given = process.argv.slice(2);
const files = given.every((argument) => argument.startsWith("-")) ? planProcesses() : [];
// Some hundred processes load the same modules: from Node 22 on, each is compiled once for all of them.
const compiled = join(import.meta.dirname, "../node_modules/.cache/compiled");
const unrecorded = `--import=${join(import.meta.dirname, "support/unrecorded.mjs")}`;
const tap = spawn("tap", ["--output-dir", results, ...nodeArguments, ...given, ...files], {
  stdio: "inherit",
  env: {
    NODE_COMPILE_CACHE: compiled,
    ...process.env,
    NODE_OPTIONS: `${process.env["NODE_OPTIONS"] ?? ""} "${unrecorded}"`,
  },
});
const [code, signal] = (await once(tap, "exit")) as [number | null, NodeJS.Signals | null];
process.exitCode = code ?? 128 + constants.signals[signal!];

// Comments of TAP, which this may be the end of.
const say = (line: string): void => console.log(`# ${line}`);
const inItsProcess = new RegExp(`^${FOLDER}/\\S+ > `);
const skips = skipsIn(results).map(({ test, reason }) => ({ test: test.replace(inItsProcess, ""), reason }));
if (skips.length > 0) {
  say(`Skipped on this machine (${skips.length}):`);
  for (const [reason, tests] of byReason(skips)) {
    say(`  ${reason}`);
    for (const test of tests) say(`    ${test}`);
  }
}
const forbidden = process.env["PREFIXD_TEST_COMPLETE"] === "1" ? unlisted(skips) : [];
if (forbidden.length > 0) {
  say(`Must not be skipped here (${forbidden.length}): test/support/requirements.ts does not say why these may be`);
  for (const { test } of forbidden) say(`  ${test}`);
  process.exitCode ||= 1;
}
