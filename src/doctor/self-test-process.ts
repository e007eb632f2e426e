/** Runs the self-test in a child process: a driver can crash or hang its caller. */
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import type { Comparison } from "./compare.ts";
import type { SelfTestOptions } from "./self-test.ts";
import { withoutSecrets } from "../without-secrets.ts";

/** Result of one precision on a device. Numbers are null if the test did not get that far. */
export interface SelfTestReport {
  readonly precision: SelfTestOptions["precision"];
  readonly passed: boolean;
  /** null: passed. */
  readonly problem: string | null;
  readonly requests: number | null;
  readonly largest_logprob_difference: number | null;
  readonly allowed_difference: number | null;
  /** Duration of the whole test, including process start and kernel compilation: says nothing about serving speed. */
  readonly seconds: number;
}

export interface SelfTestProcessOptions {
  /** The child's entry point. */
  readonly entry?: string;
  readonly timeoutMs?: number;
}

// Resolved beside this file: .ts when run from src, .js from dist.
const ENTRY = fileURLToPath(
  new URL(`./self-test-child${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url),
);
/** The first shader compilation on a software GPU adapter takes a third of it. */
const TIMEOUT_MS = 60_000;

/** Never rejects: a crash or a hang is a result too. */
export async function runSelfTest(
  options: SelfTestOptions,
  { entry = ENTRY, timeoutMs = TIMEOUT_MS }: SelfTestProcessOptions = {},
): Promise<SelfTestReport> {
  const began = performance.now();
  const child = fork(entry, [options.device, options.precision, options.folder], {
    stdio: ["ignore", "ignore", "pipe", "ipc"],
    env: withoutSecrets(),
  });
  let answer: Comparison | { readonly problem: string } | null = null;
  let stderr = "";
  let timedOut = false;
  child.on("message", (message: Comparison) => (answer = message));
  child.stderr!.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const timer = setTimeout(() => {
    timedOut = true;
    child.kill("SIGKILL");
  }, timeoutMs);
  const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
  clearTimeout(timer);
  const lost = (): string => {
    if (timedOut) return `no answer within ${timeoutMs / 1000} s: the driver or the device hangs`;
    const last = stderr.trim().split("\n").at(-1);
    return `the process ${signal === null ? `ended with code ${code}` : `crashed with ${signal}`}${last ? `: ${last}` : ""}`;
  };
  const { problem, ...numbers } = (answer as Comparison | null) ?? { problem: lost() };
  return {
    precision: options.precision,
    passed: problem === null,
    problem,
    requests: null,
    largest_logprob_difference: null,
    allowed_difference: null,
    ...numbers,
    seconds: Math.round((performance.now() - began) / 100) / 10,
  };
}
