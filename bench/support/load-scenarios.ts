/**
 * Runs the scenarios of `prefixd load`, each against its own server with the demo model, scaled to the machine's
 * capacity.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { CALIBRATION } from "../../src/load/capacity.ts";
import { codes, resultText } from "../../src/load/report/text.ts";
import type { LoadResult } from "../../src/load/result.ts";
import { runLoad } from "../../src/load/run.ts";
import { loadScenario, override, peakRate } from "../../src/load/scenario.ts";
import { listening } from "./server-process.ts";

const ROOT = new URL("../..", import.meta.url).pathname;
const ADMIN_KEY = "the-key-of-a-server-that-is-gone-after-the-run";

export interface ScenarioRuns {
  /** Scenarios, with the duration in their file, or `NAME:SECONDS`. */
  readonly names: readonly string[];
  readonly prefixes?: number;
  /** More flags for `prefixd serve`. */
  readonly serve: readonly string[];
}

export interface ScenarioTable {
  readonly head: readonly string[];
  /** One row per scenario; its first cell is the scenario's name. */
  readonly rows: readonly (readonly string[])[];
}

/** Runs them one after the other, each against a fresh server. */
export async function runScenarios(runs: ScenarioRuns): Promise<ScenarioTable> {
  const rows: string[][] = [];
  for (const name of runs.names) {
    const result = await runOne(name, runs);
    process.stderr.write(resultText(result));
    rows.push(rowOf(result, runs.serve));
  }
  return {
    head: [
      "scenario",
      "server's flags",
      "prefixes, registered in",
      "capacity, requests/s",
      "peak",
      "seconds",
      "requests",
      "answered",
      "TTFT p50",
      "p99",
      "goodput",
      "tokens/s",
      "errors",
      "compared, wrong",
      "RSS, MiB",
      "verdict",
    ],
    rows,
  };
}

async function runOne(wanted: string, { prefixes, serve }: ScenarioRuns): Promise<LoadResult> {
  const [name = "", seconds] = wanted.split(":");
  const folder = mkdtempSync(join(tmpdir(), "prefixd-bench-"));
  const args = ["serve", "--port", "0", "--store", `lmdb:${folder}`, "--log-level", "info", ...serve];
  const server = spawn(process.execPath, ["--import", "tsx", join(ROOT, "src/cli/main.ts"), ...args], {
    cwd: ROOT,
    env: { ...process.env, PREFIXD_ADMIN_KEY: ADMIN_KEY },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const exited = once(server, "exit");
  const interrupted = new AbortController();
  const interrupt = (): void => interrupted.abort();
  process.on("SIGINT", interrupt).on("SIGTERM", interrupt);
  try {
    const url = await listening(server.stdout, exited);
    return await runLoad({
      scenario: override(loadScenario(name), {
        ...(seconds === undefined ? {} : { duration: Number(seconds) }),
        ...(prefixes === undefined ? {} : { prefixes }),
      }),
      urls: [url],
      credentials: { adminKey: ADMIN_KEY, userKey: null },
      model: { shape: null, vocabulary: null },
      calibrate: CALIBRATION,
      timeoutMs: 120_000,
      staleMs: 0,
      signal: interrupted.signal,
      onPhase: (phase) => void process.stderr.write(`${name}: ${phase}\n`),
      onProgress: () => undefined,
    });
  } finally {
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
    server.kill("SIGTERM");
    await exited;
    rmSync(folder, { recursive: true });
  }
}

function rowOf(result: LoadResult, serve: readonly string[]): string[] {
  const { scenario, capacity, totals, ttft, registered, verification, servers, criteria } = result;
  const ms = (value: number): string => value.toFixed(0);
  const failed = criteria
    .filter(({ passed }) => !passed)
    .map(
      ({ name, value, limit }) =>
        `${name} ${value === null ? "not measured" : Number(value.toPrecision(3))}, asked ${limit}`,
    );
  const samples = servers[0]!.samples;
  return [
    scenario.name,
    serve.length > 0 ? `\`${serve.join(" ")}\`` : "",
    `${registered.prefixes}, ${registered.seconds.toFixed(1)} s`,
    capacity!.requests_per_s.toFixed(1),
    scenario.groups.reduce((sum, { arrivals }) => sum + peakRate(arrivals), 0).toFixed(1),
    result.seconds.toFixed(0),
    String(totals.requests),
    String(totals.ok),
    ms(ttft.p50),
    ms(ttft.p99),
    `${(totals.goodput * 100).toFixed(1)} %`,
    totals.tokens_per_s.toFixed(0),
    codes(totals.errors),
    `${verification.compared}, ${verification.wrong}`,
    `${samples[0]?.rss_mib.toFixed(0) ?? "?"} to ${samples.at(-1)?.rss_mib.toFixed(0) ?? "?"}`,
    failed.length === 0 ? "passed" : `failed: ${failed.join("; ")}`,
  ];
}
