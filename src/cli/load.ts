import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { readAdminKey } from "../key-files.ts";
import { ConfigError } from "../errors.ts";
import { CALIBRATION } from "../load/capacity.ts";
import { LoadError } from "../load/http.ts";
import { parseShape, readModelConfig } from "../load/prefix-content.ts";
import { Progress } from "../load/progress.ts";
import { compare, compareHtml, compareText, readResult } from "../load/report/compare.ts";
import { reportHtml } from "../load/report/html.ts";
import { resultText } from "../load/report/text.ts";
import { runLoad } from "../load/run.ts";
import { loadScenario, override, ScenarioError, SCENARIOS } from "../load/scenario.ts";
import { readArguments } from "./arguments.ts";
import { checkReadable, checkWritable } from "./files.ts";
import { onStopSignals } from "./signals.ts";

const USAGE = `Usage: prefixd load --scenario NAME|FILE [--url http://127.0.0.1:8080 ...] [flags]
       prefixd load --compare A.json B.json [--html FILE]

Puts load on a running server, measures it, and checks its answers: some of the requests are first run alone, and must return the same
tokens and log probabilities under load, to the bit. Scenarios: ${SCENARIOS.join(", ")}.

  --url URL              repeatable: requests go to all servers in turn; prefixes and users are created through the first
  --duration SECONDS     --rate R (requests per second, all open loops)   --clients N (all closed loops)
  --prefixes N           --seed N   --trace FILE
  --calibrate            first measure the server's capacity with a closed loop of 25 s, and scale the open loops to it: their peak
                         rate is the scenario's peak_of_capacity (or --peak-of-capacity X) times the capacity
  --shape L,H,D          layers, heads and head dimension, if the server does not report them; or --model-config config.json
  --stale-ms MS          how long replicas may serve a replaced prefix (default 1000, as documented; 0 for a single server)
  --timeout SECONDS      per request (default 120)
  --json FILE            write the result      --html FILE   write a report that opens from disk
  --admin-key-file FILE  or PREFIXD_ADMIN_KEY: create several users; without it PREFIXD_KEY may hold one user's key

Exit code 0: all criteria met; 1: a criterion not met, or the server failed; 2: bad usage.
`;

const OPTIONS = {
  scenario: { type: "string" },
  url: { type: "string", multiple: true },
  duration: { type: "string" },
  rate: { type: "string" },
  clients: { type: "string" },
  prefixes: { type: "string" },
  seed: { type: "string" },
  trace: { type: "string" },
  calibrate: { type: "boolean" },
  "peak-of-capacity": { type: "string" },
  shape: { type: "string" },
  "model-config": { type: "string" },
  "stale-ms": { type: "string" },
  timeout: { type: "string" },
  json: { type: "string" },
  html: { type: "string" },
  "admin-key-file": { type: "string" },
  compare: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

type Values = ReturnType<typeof readArguments<typeof OPTIONS>>["values"];

/** `prefixd load`: the result on stdout, progress on stderr. */
export async function load(args: readonly string[]): Promise<void> {
  const { values, positionals } = readArguments("load", args, OPTIONS, USAGE);
  if (values.help === true) return void process.stdout.write(USAGE);
  try {
    if (values.compare === true) return compareFiles(positionals, values.html);
    if (positionals.length > 0) throw new ScenarioError(`unexpected operand ${positionals[0]}`);
    await run(values);
  } catch (error) {
    if (error instanceof ScenarioError) throw new ConfigError(`load: ${error.message}`);
    if (!(error instanceof LoadError)) throw error;
    process.stderr.write(`prefixd: load: ${error.message}\n`);
    process.exitCode = 1;
  }
}

async function run(values: Values): Promise<void> {
  if (values.scenario === undefined) throw new ConfigError("load: give --scenario NAME|FILE", USAGE);
  checkReadable("--trace", values.trace);
  checkReadable("--model-config", values["model-config"]);
  checkWritable("--json", values.json);
  checkWritable("--html", values.html);
  const scenario = override(loadScenario(values.scenario), {
    ...given("duration", positive("--duration", values.duration)),
    ...given("rate", positive("--rate", values.rate)),
    ...given("clients", whole("--clients", values.clients)),
    ...given("prefixes", whole("--prefixes", values.prefixes)),
    ...given("seed", whole("--seed", values.seed)),
    ...given("trace", values.trace),
    ...given("peakOfCapacity", positive("--peak-of-capacity", values["peak-of-capacity"])),
  });
  const calibrate = values.calibrate === true || values["peak-of-capacity"] !== undefined;
  if (calibrate && values.rate !== undefined) throw new ScenarioError("--rate and --calibrate: give only one of them");
  const config = values["model-config"] === undefined ? null : readModelConfig(values["model-config"]);
  const progress = new Progress(process.stderr.isTTY);
  const interrupted = new AbortController();
  const forget = onStopSignals(
    () => interrupted.abort(),
    () => process.exit(1),
  );
  try {
    const result = await runLoad({
      scenario,
      urls: values.url ?? [process.env["PREFIXD_URL"] || "http://127.0.0.1:8080"],
      credentials: {
        adminKey: readAdminKey(values["admin-key-file"] ?? "", process.env),
        userKey: process.env["PREFIXD_KEY"] || null,
      },
      model: {
        shape: values.shape === undefined ? (config?.shape ?? null) : parseShape(values.shape),
        vocabulary: config?.vocabulary ?? null,
      },
      ...(calibrate ? { calibrate: CALIBRATION } : {}),
      timeoutMs: (positive("--timeout", values.timeout) ?? 120) * 1000,
      staleMs: whole("--stale-ms", values["stale-ms"]) ?? 1000,
      signal: interrupted.signal,
      onPhase: progress.phase,
      onProgress: progress.update,
    });
    if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(result)}\n`);
    if (values.html !== undefined) writeFileSync(values.html, reportHtml(result));
    process.stdout.write(resultText(result));
    process.exitCode = result.passed && !interrupted.signal.aborted ? 0 : 1;
  } finally {
    progress.stop();
    forget();
  }
}

function compareFiles(files: readonly string[], html: string | undefined): void {
  const [fileA, fileB, ...more] = files;
  if (fileA === undefined || fileB === undefined || more.length > 0)
    throw new ScenarioError("--compare takes two files that --json wrote");
  for (const file of [fileA, fileB]) checkReadable("load --compare", file);
  checkWritable("--html", html);
  const [a, b] = [readResult(fileA), readResult(fileB)];
  const names: [string, string] = [basename(fileA, ".json"), basename(fileB, ".json")];
  if (html !== undefined) writeFileSync(html, compareHtml(a, b, names));
  process.stdout.write(compareText(compare(a, b), names));
}

const given = <K extends string, V>(key: K, value: V | undefined): { [key in K]?: V } =>
  (value === undefined ? {} : { [key]: value }) as { [key in K]?: V };

function positive(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d+(\.\d+)?$/.test(text) || Number(text) === 0)
    throw new ScenarioError(`${flag} ${text}: expected a number above 0`);
  return Number(text);
}

function whole(flag: string, text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  if (!/^\d{1,10}$/.test(text)) throw new ScenarioError(`${flag} ${text}: expected a whole number`);
  return Number(text);
}
